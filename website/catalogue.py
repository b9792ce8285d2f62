"""The formulas of the losses and recipes in LaTeX. docs/losses.md has the same in words, and the symbols."""

from __future__ import annotations

_Z = (
    r"z_x = \frac{x - \mu_b}{S_b + \epsilon}, \quad "
    r"\mu_b = \langle x \rangle_b, \quad S_b = \langle |x - \mu_b| \rangle_b"
)
_SOBEL = r"\sum \left( |S_x * D_k r| + |S_y * D_k r| \right)"
_L = r"l = \ln \frac{p + o}{g + o}"
_SILOG = r"L = c \sqrt{\mathrm{Var}(l) + (1 - \lambda) \langle l \rangle^2 + \epsilon}"
_FIT = r"(s_b, t_b) = \mathrm{arg\,min}_{s,t} \sum m \, (s p + t - g)^2, \quad R = s_b p + t_b - g"
_MATCHING = (
    r"M(R) = \sum_{k=0}^{3} \frac{1}{N_k} \sum_{\mathrm{pairs}} "
    r"\left( |\Delta_x R^{(k)}| + |\Delta_y R^{(k)}| \right), \quad R^{(k)} = R[{::}2^k, {::}2^k]"
)
_MEDIAN = r"x' = \frac{x - \mathrm{med}_b(x)}{\mathrm{MAD}_b(x)}, \quad R = p' - g'"
_SSI = r"\mathrm{SSI} = \mathrm{Var}(e) + \alpha \langle e \rangle^2, \quad e = p - g"
_CONFIDENCE = r"C = \frac{1}{N} \sum m \left( c \, |p - g| - \alpha \ln c \right)"
_INVERSE = r"\left| \frac{1}{p + 10^{-6}} - \frac{1}{g + 10^{-6}} \right|"
_RESNET_SAN = "packnet-sfm-resnet-san (YoungseokOh)"

# Name of a loss -> its formulas, and where they come from.
LOSSES: dict[str, tuple[tuple[str, ...], str]] = {
    "g2": (
        (
            r"L = A + R + \frac{1}{2} G",
            r"A = \frac{1}{N_a + \epsilon} \sum a \, |p - g|",
            r"R = \frac{1}{N + \epsilon} \sum m \, |z_p - z_g|",
            r"G = \frac{1}{N + \epsilon} \sum_{k=0}^{3} " + _SOBEL + r", \quad r = m \, (z_p - z_g)",
            _Z,
        ),
        "Wang et al., G2-MonoDepth, T-PAMI 2024, and its code",
    ),
    "scale-adaptive": (
        (
            r"L = R + A + \lambda G, \quad \text{of depths } \frac{1}{\max(x, 10^{-6})}",
            r"R = \langle |z_p - z_g| \rangle, \quad A = \langle |p - g| \rangle",
            r"G = \frac{1}{K} \sum_k \frac{1}{n_k + \epsilon} " + _SOBEL + r", \quad r = z_p - z_g",
            _Z,
        ),
        f"The guide of {_RESNET_SAN}; statistics over valid pixels are ours",
    ),
    "scale-adaptive-progressive": (
        (
            r"L = \sum_{s=0}^{K-1} w_s(t) \left( (1 - \lambda) R_s + \lambda G_s \right) + \alpha(t) A",
            r"w_s \propto 1 + (1 - t) s, \quad \alpha(t) = \frac{1 + t}{2}, \quad t = \text{progress}",
        ),
        f"The integration analysis of {_RESNET_SAN}, which names the schedules; their definitions are ours",
    ),
    "gradient": (
        (r"L = \frac{1}{K} \sum_{k=0}^{K-1} \frac{1}{n_k + \epsilon} " + _SOBEL + r", \quad r = p - g",),
        "The documented form of G2-MonoDepth's gradient term",
    ),
    "ssi": ((r"L = \mathrm{Var}(e) + \alpha \langle e \rangle^2, \quad e = p - g",), _RESNET_SAN),
    "silog": ((_SILOG, _L), "Eigen et al., NIPS 2014; presets from the projects they are named after"),
    "ssi-silog": (
        (
            r"L = w_1 \, \mathrm{SSI}(p, g) + w_2 \, \mathrm{SILog}\left(\frac{1}{p}, \frac{1}{g}\right) "
            r"+ w_3 \, G\left(\frac{1}{p} - \frac{1}{g}\right)",
            _SSI,
        ),
        _RESNET_SAN,
    ),
    "enhanced-ssi": (
        (
            r"L = w_s \, \mathrm{SSI} + w_l \, \langle " + _INVERSE + r" \rangle",
            r"w_s = \frac{0.8 + 0.1 (1 - t)}{1.1}, \quad w_l = \frac{0.2 + 0.1 t}{1.1}",
            _SSI,
        ),
        _RESNET_SAN,
    ),
    "progressive-ssi": (
        (
            r"L = w_s \, \mathrm{SSI} + w_l \, \langle " + _INVERSE + r" \rangle",
            r"w_l = 0.3 \min\left(1, \frac{\mathrm{epoch}}{15}\right), \quad w_s = 1 - w_l",
            _SSI,
        ),
        _RESNET_SAN,
    ),
    "ssi-trim": (
        (
            r"L = \frac{1}{B} \sum_b \frac{1}{n'_b} \sum_{\mathrm{smallest}\ n'_b} |a p + b - g|, \quad "
            r"n'_b = \lfloor (1 - \mathrm{trim}) \, n_b \rfloor",
            r"a_0 = \frac{\mathrm{Cov}(p, g)}{\mathrm{Var}(p) + 10^{-6}}, \quad "
            r"a = \mathrm{clamp}(a_0, 0.1, 10), \quad b = \bar g - a_0 \bar p",
        ),
        _RESNET_SAN,
    ),
    "berhu": (
        (
            r"L = \langle \varphi(|p - g|) \rangle, \quad \varphi(d) = "
            r"\begin{cases} d & d \le c \\ \frac{d^2 + c^2}{2c} & d > c \end{cases}, \quad c = 0.2 \max d",
        ),
        "Laina et al., 3DV 2016",
    ),
    "abs-rel": ((r"L = \left\langle \frac{|p - g|}{g} \right\rangle",), "The metric of Eigen et al. 2014"),
    "l1": ((r"L = \langle |p - g| \rangle",), "Textbook"),
    "mse": ((r"L = \langle (p - g)^2 \rangle",), "Textbook"),
    "scale-shift-invariant": (
        (r"L = \frac{1}{2N} \sum m R^2 + \alpha M(R)", _FIT, _MATCHING),
        "Ranftl et al., Towards Robust Monocular Depth Estimation (MiDaS), T-PAMI 2020",
    ),
    "affine-invariant": (
        (
            r"L = \frac{1}{B} \sum_b \frac{1}{n'_b} \sum_{\mathrm{smallest}\ n'_b} |R| + \alpha M(R)",
            _MEDIAN,
            _MATCHING,
        ),
        "Ranftl et al. 2020, with the median over valid pixels",
    ),
    "adaptive-multi-domain": (
        (
            r"L = \sum_{i} \left( \frac{1}{2} e^{-s_i} L_i + \frac{1}{2} s_i \right)",
            r"s_i = \ln \sigma_i^2 \text{ is learnt}",
            r"L_1 = \text{scale-adaptive}, \quad L_2 = \text{ssi-silog}",
        ),
        f"Kendall, Gal and Cipolla, CVPR 2018, over two losses of {_RESNET_SAN}",
    ),
    "fixed-multi-domain": (
        (r"L = 0.4 \, L_1 + 0.6 \, L_2, \quad L_1 = \text{scale-adaptive}, \quad L_2 = \text{ssi-silog}",),
        "The ablation partner of adaptive-multi-domain",
    ),
}


def _silog(lam: str, scale: str = "", more: str = "", log: str = r"l = \ln p - \ln g") -> tuple[str, ...]:
    return rf"L = {scale} \sqrt{{\mathrm{{Var}}(l) + {lam} \langle l \rangle^2 {more}}}", log


_ROBUST = (
    r"L = \frac{1}{N'} \sum_{\mathrm{smallest}\ N'} |R| + \frac{1}{2} M(R), \quad N' = \lfloor 0.8 N \rfloor",
    _MEDIAN,
    _MATCHING,
)
RECIPES: dict[str, tuple[str, ...]] = {
    "midas": (r"L = \frac{1}{2N} \sum m R^2 + \frac{1}{2} M(R)", _FIT, _MATCHING),
    "midas-robust": _ROBUST,
    "depth-anything-relative": _ROBUST,
    "e2e-ft": (r"L = \frac{1}{N} \sum m \, |R|", _FIT),
    "nlspn": (
        r"L = \sum_b \left( \langle |p - g| \rangle_b + \langle (p - g)^2 \rangle_b \right)",
        r"p, g \text{ clamped to } [0, d_{\mathrm{max}}]",
    ),
    "vggt-depth": (
        r"L = C + \langle |p - g| \rangle + \frac{1}{4} M(p - g), \quad \alpha = 0.2",
        _CONFIDENCE,
        _MATCHING,
    ),
    "dust3r-confidence": (r"L = C, \quad \alpha = 0.2", _CONFIDENCE),
    "metric3d-ssi": (r"L = \frac{1}{N} \sum m \, |R|", _MEDIAN),
    "metric3d-silog": (r"L = \mathrm{Var}(l) + \frac{1}{2} \langle l \rangle^2, \quad l = \ln p - \ln g",),
    "unidepth-silog": (
        r"L = \frac{1}{B} \sum_b \sqrt{\mathrm{Var}_b(l) + 0.15 \langle l \rangle_b^2 + 10^{-4}}",
        r"l = \ln (p + 10^{-4}) - \ln (g + 10^{-4})",
    ),
    "yolo26-depth": (
        r"L = \sqrt{\mathrm{Var}(l) + 10^{-6}} + \frac{1}{2} M(l)",
        r"l = \ln \max(p, 10^{-3}) - \ln g",
        _MATCHING,
    ),
    "zoedepth": _silog("0.15", "10", log=r"l = \ln (p + 10^{-7}) - \ln (g + 10^{-7})"),
    "adabins": _silog("0.15", "10"),
    "bts": _silog("0.15", "10"),
    "depth-anything-v2-metric": _silog("0.5"),
    "packnet": _silog("0.15", "10"),
    "mmseg": (
        r"L = \frac{1}{B} \sum_b \sqrt{\mathrm{Var}_b(l) + 0.5 \langle l \rangle_b^2}",
        r"l = \ln p - \ln g",
    ),
    "toolbox-sig": _silog("0.15", log=r"l = \ln (p + 10^{-3}) - \ln (g + 10^{-3})"),
    "g2-monodepth": LOSSES["g2"][0],
    "resnet-san": (
        r"L = 0.7 \, \mathrm{SSI}(p, g) + 0.3 \, \mathrm{SILog}\left(\frac{1}{p}, \frac{1}{g}\right)",
        _SSI,
        r"\mathrm{SILog} = 10 \sqrt{\mathrm{Var}(l) + 0.15 \langle l \rangle^2 + 10^{-8}}",
    ),
}

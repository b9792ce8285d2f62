"""Bugs of the reference, the losses' specs, alignments, metrics and protocols."""

from __future__ import annotations

from .bug import of

REFERENCE = ("by hand", "relations", "native", "golden", "rules", "properties", "reference")
METRICS = ("metrics", "protocols")
BUGS = [
    *of(
        "depthloss/reference/pyramid.py",
        REFERENCE,
        (
            "the border copies the second row, not the first",
            "x = torch.cat((x[:, :1], x, x[:, -1:]), 1)",
            "x = torch.cat((x[:, 1:2], x, x[:, -1:]), 1)",
        ),
        (
            "the smoothing of the Sobel filter is 1 1 1",
            "smooth_x = x[:, :, :-2] + 2.0 * x[:, :, 1:-1]",
            "smooth_x = x[:, :, :-2] + x[:, :, 1:-1]",
        ),
        (
            "height and width change places in nearest",
            "nearest(x, x.shape[1] >> level, x.shape[2] >> level)",
            "nearest(x, x.shape[2] >> level, x.shape[1] >> level)",
        ),
        ("the last level is dropped", "value = levels.sum(-1) /", "value = levels[..., :-1].sum(-1) /"),
        (
            "mask centre keeps cells that are half valid, not more",
            "half = weight > 0.5",
            "half = weight >= 0.5",
        ),
        (
            "the normaliser of mask centre is the valid area",
            "half, count(half, dtype)",
            "half, image_sum(weight)",
        ),
        (
            "a difference is kept where one of its cells is valid",
            "v[:, :, 1:] & v[:, :, :-1], v[:, 1:] & v[:, :-1]",
            "v[:, :, 1:] & v[:, :, :-1], v[:, 1:] | v[:, :-1]",
        ),
    ),
    *of(
        "depthloss/reference/pyramid.py",
        ("lone",),
        (
            "a NaN that no response reads is hidden",
            '/ (1 if spec.combine == "sum" else counted) + visible',
            '/ (1 if spec.combine == "sum" else counted)',
        ),
    ),
    *of(
        "depthloss/reference/statistics.py",
        REFERENCE,
        ("the standardisation lacks its eps", "return dev / (mad + eps)[", "return dev / mad["),
        (
            "the deviations of mask centre count invalid pixels",
            "mad = image_sum(weighed(dev.abs(), m, w))",
            "mad = image_sum(weighed(dev.abs(), keep, w))",
        ),
        ("the upper median", "(n - 1).clamp(min=0) // 2", "(n // 2).clamp(min=0)"),
        (
            "each tie with a median gets the whole gradient",
            "/ count(ties, x.dtype).clamp(min=1.0)",
            "/ 1.0",
        ),
        (
            "ties with the threshold of a trim count whole",
            "select(d == tau, share)",
            "select(d == tau, share * 0 + 1)",
        ),
        ("a trim rounds up", "torch.floor((1.0 - trim)", "torch.ceil((1.0 - trim)"),
        (
            "the shift of a fit has the wrong sign",
            "return s, g_mean - s * p_mean",
            "return s, g_mean + s * p_mean",
        ),
    ),
    *of(
        "depthloss/reference/terms.py",
        REFERENCE,
        ("n/(n - 1) is n/n", "(n / (n - 1.0).clamp(min=1.0))", "(n / n.clamp(min=1.0))"),
        (
            "the eps of a pooled mean is dropped",
            "total / (number + eps if eps else",
            "total / (number if eps else",
        ),
    ),
    *of(
        "depthloss/reference/penalties.py",
        REFERENCE,
        ("the reverse Huber is not continuous", "(d.square() + c.square()) / (2.0", "d.square() / (2.0"),
    ),
    *of(
        "depthloss/reference/__init__.py",
        REFERENCE,
        ("the log-variance counts twice", "0.5 * precision * loss + 0.5 * v)", "0.5 * precision * loss + v)"),
    ),
    *of(
        "depthloss/reference/statistics.py",
        ("ranks",),
        (
            "a mean over the images is that of one rank",
            "size = ranks.sum(per_image.new_full((), per_image.shape[0]))",
            "size = per_image.new_full((), per_image.shape[0])",
        ),
    ),
    *of(
        "depthloss/maps.py",
        REFERENCE,
        (
            "the middle of a cell is one pixel off",
            "x.shape[2] // factor, factor // 2 - 1",
            "x.shape[2] // factor, factor // 2",
        ),
        ("gt_range is open at its end", "gt <= min(high, limit)]", "gt < min(high, limit)]"),
    ),
    *of(
        "depthloss/spec/terms.py",
        REFERENCE,
        (
            "SILog weights mean² by λ",
            'self.alpha if self.form == "plain" else 1.0 - self.lam',
            'self.alpha if self.form == "plain" else self.lam',
        ),
    ),
    *of(
        "depthloss/spec/gradient.py",
        REFERENCE,
        (
            "a preset has another border",
            'mask="support", downsample="bilinear", border="replicate"',
            'mask="support", downsample="bilinear", border="zero"',
        ),
    ),
    *of(
        "depthloss/spec/roles.py",
        ("layout",),
        (
            "terms of two alignments share one residual",
            "len({(t.domain, t.alignment) for t in structure}) > 1",
            "len({t.domain for t in structure}) > 1",
        ),
    ),
    *of(
        "depthloss/fits.py",
        ("alignments",),
        (
            "the shift has the wrong sign",
            "return scale, of_t - scale * of_p",
            "return scale, of_t + scale * of_p",
        ),
        (
            "the upper median",
            "(ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2",
            "ordered[len(x) // 2]",
        ),
        (
            "the weights of a fit are ignored",
            "parts.sum(weighted * (t - parts.spread(of_t))) / variance",
            "parts.sum(deviation * (t - parts.spread(of_t))) / variance",
        ),
        (
            "of equal places the first counts",
            "torch.searchsorted(places, ratio, right=True) - 1",
            "torch.searchsorted(places, ratio) - 1",
        ),
        ("the truncation is added, not taken", "loss.clamp(max=truncation)", "loss.clamp(min=truncation)"),
    ),
    *of(
        "depthloss/arrays.py",
        ("protocols",),
        (
            "a segment begins where the first one ends",
            "np.cumsum(self.lengths) - self.lengths",
            "np.cumsum(self.lengths) - self.lengths[0]",
        ),
    ),
    *of(
        "depthloss/metrics/table.py",
        METRICS,
        ("a ratio at the threshold passes", "lambda x: x.ratio < limit", "lambda x: x.ratio <= limit"),
        ("inverse depths in 1/m", "1000 * (1 / self.p - 1 / self.g)", "(1 / self.p - 1 / self.g)"),
        ("silog is not about its mean", "(log_square - log_error.square())", "(log_square - 0 * log_error)"),
        (
            "the range of depth has its ends",
            "(gt > min_depth) & (gt < max_depth)",
            "(gt >= min_depth) & (gt < max_depth)",
        ),
    ),
    *of(
        "depthloss/metrics/boundaries.py",
        METRICS,
        (
            "rows are compared twice, columns never",
            "_neighbours([(0, 1), (1, 0)])",
            "_neighbours([(1, 0), (1, 0)])",
        ),
    ),
    *of(
        "depthloss/metrics/edges.py",
        METRICS,
        ("one side of an edge is not near it", "    near[:-1] |= down\n", ""),
    ),
    *of(
        "depthloss/metrics/means.py",
        METRICS,
        (
            "an image without a pixel counts",
            "                self.empty += 1\n                continue\n",
            "                self.empty += 1\n                self.images += 1\n                continue\n",
        ),
    ),
    *of(
        "depthloss/protocols/crops.py",
        ("protocols", "metrics"),
        (
            "height and width change places",
            "top, left = height - 352, (width - 1216) // 2",
            "left, top = height - 352, (width - 1216) // 2",
        ),
    ),
]

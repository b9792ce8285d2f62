"""The metrics once more, from their formulas and in NumPy alone, for the tests."""

import numpy as np


def pooled(p, g):
    """Metrics that are means over pixels; p and g are vectors of depth."""
    p, g = np.asarray(p, np.float64), np.asarray(g, np.float64)
    ratio = [max(a / b, b / a) for a, b in zip(p, g, strict=True)]
    return {
        "abs_rel": np.mean(np.abs(p - g) / g),
        "sq_rel": np.mean((p - g) ** 2 / g),
        "rmse": np.sqrt(np.mean((p - g) ** 2)),
        "rmse_log": np.sqrt(np.mean((np.log(p) - np.log(g)) ** 2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(g))),
        "silog": 100 * np.std(np.log(p / g)),
        "a1": np.mean([r < 1.25 for r in ratio]),
        "a2": np.mean([r < 1.25**2 for r in ratio]),
        "a3": np.mean([r < 1.25**3 for r in ratio]),
        "d103": np.mean([r < 1.03 for r in ratio]),
        "d105": np.mean([r < 1.05 for r in ratio]),
        "d110": np.mean([r < 1.1 for r in ratio]),
        "d_auc": d_auc(ratio),
        "mae": np.mean(np.abs(p - g)),
        "irmse": np.sqrt(np.mean((1000 / p - 1000 / g) ** 2)),
        "imae": np.mean(np.abs(1000 / p - 1000 / g)),
    }


def d_auc(ratio):
    k = np.linspace(0.01, 5, 100)
    shares = np.array([np.mean([r < 1.25**x for r in ratio]) for x in k])
    return np.sum((shares[1:] + shares[:-1]) / 2 * np.diff(k)) / 5


def image(p, g, pairs):
    """All metrics of an image; `pairs` are those of the ordinal error, two lists of indices."""
    p, g = np.asarray(p, np.float64), np.asarray(g, np.float64)
    return {**pooled(p, g), "srmse": srmse(p, g), "ordinal_error": ordinal_error(p, g, pairs)}


def srmse(p, g):
    def standard(x):
        return (x - np.mean(x)) / (np.mean(np.abs(x - np.mean(x))) + 1e-6)

    return np.sqrt(np.mean((standard(p) - standard(g)) ** 2))


def ordinal_error(p, g, pairs):
    def label(a, b):
        return 1 if a / b >= 1.01 else -1 if a / b <= 1 / 1.01 else 0

    wrong = [label(p[i], p[j]) != label(g[i], g[j]) for i, j in zip(*pairs, strict=True)]
    return np.mean(wrong)


def boundaries(depth, valid, t):
    """The ordered pairs of neighbours (from, to) with depth to / from > t."""
    found = set()
    rows, columns = depth.shape
    for y in range(rows):
        for x in range(columns):
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= v < rows and 0 <= u < columns and valid[y, x] and valid[v, u]:
                    if depth[v, u] / depth[y, x] > t:
                        found.add(((y, x), (v, u)))
    return found


def boundary_scores(pred, gt, valid):
    """F1, precision and recall of the boundaries, weighted over the thresholds at which there are any."""
    rows, weights = [], []
    for t in np.linspace(1.05, 1.25, 10):
        p, g = boundaries(pred, valid, t), boundaries(gt, valid, t)
        if not g:
            continue
        precision = len(p & g) / len(p) if p else 0.0
        recall = len(p & g) / len(g)
        f1 = 2 * precision * recall / (precision + recall) if p & g else 0.0
        rows.append((f1, precision, recall))
        weights.append(t)
    return tuple(np.average(rows, axis=0, weights=weights)) if rows else None

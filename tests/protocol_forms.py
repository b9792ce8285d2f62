"""The published protocols once more, straight in NumPy, for the tests."""

import random

import numpy as np

GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
EIGEN = (0.3324324, 0.91351351, 0.03594771, 0.96405229)


def errors(p, g):
    """Metrics of vectors of depth."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.maximum(p / g, g / p)
        log = np.log(p) - np.log(g)
    return {
        "abs_rel": np.mean(np.abs(p - g) / g),
        "sq_rel": np.mean((p - g) ** 2 / g),
        "rmse": np.sqrt(np.mean((p - g) ** 2)),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(g))) if (p > 0).all() else np.nan,
        "silog": 100 * np.sqrt(np.mean(log**2) - np.mean(log) ** 2),
        "silog_half": np.sqrt(np.mean(log**2) - 0.5 * np.mean(log) ** 2),
        "a1": np.mean(ratio < 1.25),
        "a2": np.mean(ratio < 1.25**2),
        "a3": np.mean(ratio < 1.25**3),
        "d103": np.mean(ratio < 1.03),
        "d105": np.mean(ratio < 1.05),
        "d110": np.mean(ratio < 1.10),
        "d_auc": d_auc(ratio),
        "bad_125": 100 * np.mean(ratio > 1.25),
        "mae": np.mean(np.abs(p - g)),
        "irmse": 1000 * np.sqrt(np.mean((1 / p - 1 / g) ** 2)),
        "imae": 1000 * np.mean(np.abs(1 / p - 1 / g)),
        "log_mae": np.mean(np.abs(log)),
        "sq_rel_kitti": np.mean((p - g) ** 2 / g**2),
    }


def d_auc(ratio):
    k = np.linspace(0.01, 5, 100)
    shares = np.array([np.mean(ratio < 1.25**x) for x in k])
    return np.sum((shares[1:] + shares[:-1]) / 2 * np.diff(k)) / 5


def eigen_type(pred, gt, mask, low=1e-3, high=80.0, shares=None, box=None):
    """ZoeDepth, monodepth2: a crop, a strict range, a clamp."""
    valid = (gt > low) & (gt < high) & mask
    h, w = gt.shape
    inside = np.zeros_like(valid)
    if shares:
        box = [int(s * n) for s, n in zip(shares, (h, h, w, w), strict=True)]
    inside[slice(*box[:2]), slice(*box[2:])] = True
    valid &= inside
    return errors(np.clip(pred, low, high)[valid], gt[valid])


def median(pred, gt, mask):
    valid = (gt > 1e-3) & (gt < 80) & mask
    h, w = gt.shape
    box = [int(s * n) for s, n in zip(GARG, (h, h, w, w), strict=True)]
    inside = np.zeros_like(valid)
    inside[slice(*box[:2]), slice(*box[2:])] = True
    p, g = pred[valid & inside], gt[valid & inside]
    return errors(np.clip(p * np.median(g) / np.median(p), 1e-3, 80), g)


def kitti_benchmark(pred, gt, mask):
    valid = (gt > 0) & mask
    return errors(pred[valid], gt[valid])


def solve(x, y):
    return np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]


def marigold(pred, gt, mask, low=1e-3, high=10.0):
    valid = (gt > low) & (gt < high) & mask
    s, t = solve(pred[valid], gt[valid])
    q = np.clip(np.clip(s * pred + t, low, high), 1e-6, None)
    return errors(q[valid], gt[valid])


def marigold_disparity(pred, gt, mask, low=1e-3, high=10.0):
    valid = (gt > low) & (gt < high) & mask
    used = valid & (pred > 0)
    s, t = solve(pred[used], 1 / gt[used])
    q = np.clip(1 / np.clip(s * pred + t, 1e-3, None), low, high)
    return errors(q[valid], gt[valid])


def midas(pred, gt, mask, cap=10.0):
    valid = (gt > 0) & mask
    s, t = solve(pred[valid], 1 / gt[valid])
    q = 1 / np.maximum(s * pred + t, 1 / cap)
    return errors(q[valid], gt[valid])


def depth_anything_v2(pred, gt, mask):
    valid = (gt >= 1e-3) & (gt <= 20) & mask
    return errors(pred[valid], gt[valid])


def scale_only(pred, gt, mask):
    valid = (gt > 0) & mask
    p, g = pred[valid], gt[valid]
    return errors(p * (np.sum(p * g) / np.sum(p * p)), g)


def cells(valid, rows, columns):
    """Of each cell of a grid, the valid pixel nearest to its centre."""
    h, w = valid.shape
    chosen = np.zeros_like(valid)
    for i in range(rows):
        for j in range(columns):
            cy, cx = (i + 0.5) * h / rows, (j + 0.5) * w / columns
            best = None
            for y in range(max(0, int(cy - h / rows) - 1), min(h, int(cy + h / rows) + 2)):
                for x in range(max(0, int(cx - w / columns) - 1), min(w, int(cx + w / columns) + 2)):
                    dy, dx = y + 0.5 - cy, x + 0.5 - cx
                    inside = -h / rows / 2 < dy - 1e-9 and dy <= h / rows / 2 + 1e-9
                    inside &= -w / columns / 2 < dx - 1e-9 and dx <= w / columns / 2 + 1e-9
                    if valid[y, x] and inside and (best is None or dy * dy + dx * dx < best[0] - 1e-9):
                        best = (dy * dy + dx * dx, y, x)
            if best:
                chosen[best[1:]] = True
    return chosen


def l1_slope(x, y, w):
    """The weighted median of y / x."""
    keep = x != 0
    if not keep.any():
        return 0.0
    ratio, weight = y[keep] / x[keep], (w * np.abs(x))[keep]
    order = np.argsort(ratio)
    total = np.cumsum(weight[order])
    return ratio[order][np.searchsorted(total, total[-1] / 2)]


def l1_line(p, g, w):
    """The best of the lines through each pixel."""
    best = None
    for x, y in zip(p, g, strict=True):
        s = l1_slope(p - x, g - y, w)
        loss = np.sum(w * np.abs(s * (p - x) - (g - y)))
        if best is None or loss < best[0]:
            best = (loss, s, y - s * x)
    return best[1:]


def moge(pred, gt, mask, grid, alignment):
    valid = (gt > 0) & mask
    used = cells(valid, *grid)
    p, g = pred[used], gt[used]
    s, t = {"l1": lambda: l1_line(p, g, 1 / g), "l1-scale": lambda: (l1_slope(p, g, 1 / g), 0.0)}[alignment]()
    q = s * pred + t
    found = errors(q[valid], gt[valid])
    return found | {f"moge_f1_r{r}": moge_f1(q, gt, valid, r) for r in (1, 2, 3)}


def moge_disparity(pred, gt, mask):
    valid = (gt > 0) & mask
    s, t = solve(pred[valid], 1 / gt[valid])
    q = 1 / np.maximum(s * pred + t, 1 / gt[valid].max())
    return errors(q[valid], gt[valid])


def moge_f1(pred, gt, valid, radius):
    h, w = gt.shape
    thresholds = np.linspace(0.05, 0.25, 10, dtype=np.float32).astype(float)
    hits, predicted, true = np.zeros((3, 10))
    for y in range(radius, h - radius):
        for x in range(radius, w - radius):
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    if dy * dy + dx * dx <= radius**2 and valid[y, x] and valid[y + dy, x + dx]:
                        p = pred[y + dy, x + dx] / pred[y, x] > 1 + thresholds
                        g = gt[y + dy, x + dx] / gt[y, x] > 1 + thresholds
                        hits, predicted, true = hits + (p & g), predicted + p, true + g
    precision, recall = hits / np.maximum(true, 1e-12), hits / np.maximum(predicted, 1e-12)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return np.sum(f1 * thresholds) / np.sum(thresholds)


def depth_pro_f1(pred, gt):
    thresholds = np.linspace(1.05, 1.25, 10)
    p, g = 1 / np.maximum(pred, 1e-6), 1 / np.maximum(gt, 1e-6)

    def steps(d, t):
        right, down = d[:, 1:] / d[:, :-1], d[1:] / d[:-1]
        return [1 / right > t, 1 / down > t, right > t, down > t]

    total = 0.0
    for t in thresholds:
        pairs = list(zip(steps(p, t), steps(g, t), strict=True))
        recall = np.mean([(a & b).sum() / max(b.sum(), 1) for a, b in pairs])
        precision = np.mean([(a & b).sum() / max(a.sum(), 1) for a, b in pairs])
        total += t * (2 * recall * precision / (recall + precision) if recall + precision else 0.0)
    return total / thresholds.sum()


def g2(pred, gt, mask, full=20.0):
    """In whole steps of full / 65535."""
    p = np.clip(np.round(pred * 65535 / full), 1, 65535)
    g = np.round(gt * 65535 / full) * mask
    valid = g > 0
    p, g = p[valid], g[valid]

    def standard(x):
        return (x - x.mean()) / (np.abs(x - x.mean()).mean() + 1e-6)

    def label(x, a, b):
        ratio = x[a].astype(np.float32) / (x[b].astype(np.float32) + np.float32(1e-8))
        return (ratio >= 1.01).astype(int) - (ratio <= 1 / 1.01).astype(int)

    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        order = list(range(len(g)))
        random.shuffle(order)
        drawn.append(order[: int(0.3 * len(g))])
    return {
        "srmse_g2": np.sqrt(np.mean((standard(p) - standard(g)) ** 2)),
        "ordinal_error_g2": np.mean(label(p, *drawn) != label(g, *drawn)),
        "rmse_g2": np.sqrt(np.mean(((p - g) / 256) ** 2)),
        "rmse": np.sqrt(np.mean((p - g) ** 2)) * full / 65535,
        "abs_rel": np.mean(np.abs(p - g) / (g + 1e-6)),
    }


def completion(pred, gt, mask):
    valid = (gt > 1e-4) & mask
    p, g = pred[valid], gt[valid]
    inverse = np.where(p <= 1e-4, 0.0, 1 / (p + 1e-8)) - 1 / (g + 1e-8)
    ratio = np.maximum(g / (p + 1e-8), p / (g + 1e-8))
    return {
        "rmse_mm": 1000 * np.sqrt(np.mean((p - g) ** 2)),
        "mae_mm": 1000 * np.mean(np.abs(p - g)),
        "irmse_capped": 1000 * np.sqrt(np.mean(inverse**2)),
        "imae_capped": 1000 * np.mean(np.abs(inverse)),
        "abs_rel": np.mean(np.abs(p - g) / (g + 1e-8)),
        **{f"a{i}": np.mean(ratio < 1.25**i) for i in (1, 2, 3)},
    }


def video_clip(pred, gt, mask, k, poses, high=10.0):
    valid = (gt > 1e-3) & (gt < high) & mask
    x = np.clip(pred, 1e-3, None)
    s, t = solve(x[valid], 1 / (gt[valid] + 1e-8))
    q = np.clip(1 / np.clip(s * x + t, 1e-3, None), 1e-3, high)
    rows = [errors(q[i][valid[i]], gt[i][valid[i]]) for i in range(len(gt)) if valid[i].any()]
    found = {name: np.mean([row[name] for row in rows]) for name in ("abs_rel", "rmse", "a1")}
    return found | {"tae": tae(q, k, poses)}


def tae(depth, k, poses):
    total = []
    for i in range(len(depth) - 1):
        move = np.linalg.inv(poses[i + 1]) @ poses[i]
        total += [moved(depth[i], depth[i + 1], move, k)]
        total += [moved(depth[i + 1], depth[i], np.linalg.inv(move), k)]
    return 100 * np.mean(total)


def moved(source, goal, move, k):
    h, w = source.shape
    there = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            z = source[y, x]
            point = np.array([(x - k[0, 2]) * z / k[0, 0], (y - k[1, 2]) * z / k[1, 1], z, 1.0])
            px, py, pz = (move @ point)[:3]
            u, v = np.round(px * k[0, 0] / pz + k[0, 2]), np.round(py * k[1, 1] / pz + k[1, 2])
            if 0 <= u < w and 0 <= v < h:
                there[int(v), int(u)] = pz
    both = (there > 0) & (goal > 0)
    return np.mean(np.abs(goal - there)[both] / goal[both]) if both.any() else 0.0


def bilinear(x, height, width, corners):
    """Straight from the definition, pixel by pixel."""
    h, w = x.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            if corners:
                y, u = i * (h - 1) / (height - 1), j * (w - 1) / (width - 1)
            else:
                y, u = max((i + 0.5) * h / height - 0.5, 0), max((j + 0.5) * w / width - 0.5, 0)
            y0, u0 = int(y), int(u)
            y1, u1 = min(y0 + 1, h - 1), min(u0 + 1, w - 1)
            a, b = y - y0, u - u0
            top = [(x[y0, u0], 1 - b), (x[y0, u1], b)]
            bottom = [(x[y1, u0], 1 - b), (x[y1, u1], b)]
            parts = [(v, c * (1 - a)) for v, c in top] + [(v, c * a) for v, c in bottom]
            out[i, j] = sum(v * c for v, c in parts if c > 1e-12)
    return out

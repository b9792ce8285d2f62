#!/usr/bin/env bash
# Checks on a GPU, in under 10 minutes: environment, tests, sanitizers, tuning sweep, benchmark.
#
#   [PYTHON=python3] [OUT=bench/results] [TOTAL=575] bench/gpu/check.sh [--dry-run] [STAGE ...]
#
# Needs torch, triton and coreutils. Without pytest or compute-sanitizer it leaves stages out and says so. A stage
# that fails or runs out of time does not stop the next; the exit status is the number of such stages. It installs
# and downloads nothing. The log and the JSON go to OUT; TOTAL is the time for all stages, in seconds.
# --dry-run: tiny, on the CPU; tests are only collected, and what needs a GPU's tools is left out.
# STAGE: only these, in this order; the last of them has all the time that is left.
#
# Where half an hour of a GPU is all there is, four runs, the first two first: speed and comparisons mean nothing
# while a kernel is wrong. The stages of the last two run only where they are named.
#   TOTAL=480 check.sh environment tests small memcheck racecheck    are the kernels right?
#   TOTAL=400 check.sh speed                                         the bars
#   TOTAL=300 check.sh emulator profile                              the emulator beside the GPU; Nsight Compute
#   TOTAL=400 check.sh training kernels                              ResNetSAN01 with each loss; all other tests
# training needs jsonargparse, docstring-parser, lightning and matplotlib.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-python3}
DRY=
only=()
for word in "$@"; do
    case $word in
    --dry-run) DRY=1 ;;
    environment | tests | gate | small | memcheck | racecheck | tune | speed | kernels | emulator | profile | training)
        only+=("$word")
        ;;
    *)
        stages="environment|tests|gate|small|memcheck|racecheck|tune|speed|kernels|emulator|profile|training"
        echo "usage: bench/gpu/check.sh [--dry-run] [$stages]..." >&2
        exit 2
        ;;
    esac
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [[ -n $DRY ]]; then
    OUT=${OUT:-$scratch/results}
    export TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi
OUT=${OUT:-$root/bench/results}
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
LOG=$OUT/gpu_check.log
printf '\n==== %s: %s\n' "$(date -u +%FT%TZ)" "${*:-all stages}" >>"$LOG"
TOTAL=${TOTAL:-575}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# COMMIT names the commit of a tree without a repository.
COMMIT=${COMMIT:-$(git -C "$root" describe --always --dirty --abbrev=40 2>/dev/null || echo unknown)}
export COMMIT

# The folder kernels is installed as depthloss.kernels. If this checkout is not installed, run a copy with the
# installed layout.
tree=$root
found=$(cd / && "$PYTHON" -c 'import depthloss, depthloss.kernels; print(depthloss.__file__)' 2>/dev/null)
if [[ $found != "$root/depthloss/__init__.py" ]]; then
    tree=$scratch/tree
    mkdir -p "$tree"
    cp -R "$root/depthloss" "$root/tests" "$root/configs" "$root/pyproject.toml" "$tree/"
    cp -R "$root/kernels" "$tree/depthloss/kernels"
    tar -C "$root" -c --exclude=results bench | tar -C "$tree" -x
    export PYTHONPATH=$tree${PYTHONPATH:+:$PYTHONPATH}
    echo "depthloss is not installed from $root: running a copy"
fi
cd "$tree" || exit 2

failed=()
skipped=()

# Seconds that are left.
left() { echo $((TOTAL - SECONDS)); }

named() { [[ " ${only[*]:-} " == *" $1 "* ]]; }

wanted() { [[ ${#only[@]} -eq 0 ]] || named "$1"; }

# stage NAME SECONDS COMMAND...: run it, log its output, show the end, record a failure.
stage() {
    local name=$1 limit=$2 begin=$SECONDS lines status
    shift 2
    wanted "$name" || return 0
    [[ ${#only[@]} -gt 0 && ${only[-1]} == "$name" ]] && limit=$(left)
    ((limit > $(left))) && limit=$(left)
    printf '\n== %s (at most %s s): %s\n' "$name" "$limit" "$*" | tee -a "$LOG"
    lines=$(wc -l <"$LOG")
    if ((limit < 5)); then
        status=124
    else
        timeout --kill-after=5 "$limit" "$@" >>"$LOG" 2>&1
        status=$?
    fi
    tail -n "+$((lines + 1))" "$LOG" | tail -n "${TAIL:-25}"
    case $status in
    0) echo "-- $name: ok, $((SECONDS - begin)) s" ;;
    124 | 137) echo "-- $name: out of time after $((SECONDS - begin)) s" ;;
    *) echo "-- $name: exit status $status after $((SECONDS - begin)) s" ;;
    esac | tee -a "$LOG"
    ((status)) && failed+=("$name")
    return 0
}

skip() {
    wanted "$1" || return 0
    printf '\n== %s: left out: %s\n' "$1" "$2"
    skipped+=("$1")
}

have() { "$PYTHON" -c "import $1" 2>/dev/null; }

# Test processes compile at the same time; they share the GPU.
spread=()
have pytest && have xdist && spread=(-n "$(($(nproc) < 12 ? $(nproc) : 12))" --dist worksteal)
if [[ -n $DRY ]]; then
    few=(-m tests.fused.gate --device cpu --few --losses 'g2 published')
    full=(-m tests.fused.gate --device cpu --losses berhu)
    tune=(-m bench.gpu.tune --dry-run --groups column finish)
    speed=(-m bench.speed.run --dry-run --losses 'g2 published')
    tests=(-m pytest tests/triton/test_gpu.py -m gpu --collect-only)
    kernels=(-m pytest tests/triton --ignore=tests/triton/emulator -m "not gpu and not full" --collect-only)
else
    few=(-m tests.fused.gate --device cuda --few)
    full=(-m tests.fused.gate --device cuda)
    tune=(-m bench.gpu.tune)
    speed=(-m bench.speed.run)
    tests=(-m pytest tests/triton/test_gpu.py tests/device/on_it.py "${spread[@]}" -rs -m "gpu or not full")
    kernels=(-m pytest tests/triton --ignore=tests/triton/emulator "${spread[@]}" -rs -m "not gpu and not full")
fi

stage environment 20 "$PYTHON" -m depthloss.env
if [[ -z $DRY ]] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch finds no GPU: nothing more to check. bench/gpu/check.sh --dry-run works without one." >&2
    exit 1
fi

if have pytest; then
    for module in hypothesis numpy; do
        have "$module" || echo "$module is missing: tests that import it fail to load"
    done
    stage tests 300 "$PYTHON" "${tests[@]}" -p no:cacheprovider --continue-on-collection-errors
    [[ -n $DRY ]] && stage gate 60 "$PYTHON" "${full[@]}"
else
    echo "pytest is missing: tests.fused.gate stands for the tests"
    stage gate 150 "$PYTHON" "${full[@]}"
fi

# Once without a sanitizer, which also fills Triton's cache.
stage small 90 "$PYTHON" "${few[@]}"
if command -v compute-sanitizer >/dev/null && [[ -z $DRY ]]; then
    # Without torch's caching every tensor is an allocation of its own, whose bounds memcheck knows.
    stage memcheck 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
        compute-sanitizer --tool memcheck --error-exitcode 9 "$PYTHON" "${few[@]}"
    stage racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 9 "$PYTHON" "${few[@]}"
else
    skip memcheck "compute-sanitizer is not on the PATH, or this is a dry run"
    skip racecheck "as memcheck"
fi

device=$("$PYTHON" -c "
import re, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'dry run'
print(re.sub('[^a-z0-9]+', '_', name.lower()).strip('_'))")
dry=${DRY:+--dry-run}
named emulator && stage emulator 300 "$PYTHON" -m tests.triton.emulator.beside_gpu $dry --out "$OUT/emulated_$device.json"
if named profile; then
    if command -v ncu >/dev/null && [[ -z $DRY ]]; then
        stage profile 200 "$PYTHON" -m bench.gpu.profile --raw "$OUT/profile" --out "$OUT/profile_$device.json"
    else
        skip profile "ncu is not on the PATH, or this is a dry run"
    fi
fi
if named training; then
    missing=
    for module in jsonargparse docstring_parser lightning matplotlib; do
        have "$module" || missing+=" $module"
    done
    if [[ -n $missing ]]; then
        skip training "missing:$missing"
    elif [[ -n $DRY ]]; then
        skip training "a dry run"
    else
        # ResNetSAN01 as it is published, 100 steps of batch 8 an epoch. Each process that loads would render
        # all frames before its first batch, if it kept them. One seed: shown, not judged.
        words="--datasets.image_shape [384,640] --model.depth_net.width 1.0 --trainer.precision bf16-mixed"
        words+=" --datasets.train.length 800 --datasets.train.cache false --datasets.train.num_workers 12"
        stage training 300 "$PYTHON" -m bench.training.equal --device cuda --seeds 1 --epochs 3 --train "$words" \
            --runs "$scratch/equal" --out "$OUT/equal_$device.json" --picture "$OUT/equal_$device.png"
    fi
fi

if named kernels && have pytest; then
    stage kernels 500 "$PYTHON" "${kernels[@]}" -p no:cacheprovider --continue-on-collection-errors
fi

if [[ -n $DRY ]]; then
    stage tune 120 "$PYTHON" "${tune[@]}" --out "$OUT/tune.json"
    TAIL=60 stage speed 120 "$PYTHON" "${speed[@]}" --out "$OUT/speed.json"
else
    # Two fifths of the remaining time for the sweep. Both finish what they have started when the budget ends.
    limit=$(left)
    wanted speed && limit=$((limit * 2 / 5))
    stage tune "$limit" "$PYTHON" "${tune[@]}" --budget "$((limit - 25))" --out "$OUT/tune_$device.json"
    limit=$(left)
    TAIL=60 stage speed "$limit" "$PYTHON" "${speed[@]}" --budget "$((limit - 45))" --out "$OUT/speed_$device.json"
fi

printf '\n%s s; failed: %s; left out: %s\n' "$SECONDS" "${failed[*]:-none}" "${skipped[*]:-none}"
exit "${#failed[@]}"

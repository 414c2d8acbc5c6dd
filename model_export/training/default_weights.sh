#!/bin/sh
# Trains the models that ship, and the plain models to compare them with, on a GPU.
#
#   default_weights.sh DATA RUNS [SEED...]
#
# DATA holds tinyimagenet64/, imagenette224/ and camvid11/, each with train/ and val/. Every seed trains its own
# trunk. Run the command again after an interruption: finished trainings are skipped, the others resume.
# Needs `vt-export` in PATH. BASELINES=1 adds the plain models; WORKERS is the number of processes that prepare
# crops (default: one per core).
set -eu
data=$1 runs=$2
shift 2
workers=${WORKERS:-$(nproc)}

train() { # DATA OUTPUT ARGUMENTS...: one training
    folder=$1 output=$2
    shift 2
    vt-export train "$data/$folder" --output "$output" --workers "$workers" --seed "$seed" "$@"
}

classify() { # MODEL: fine-tune the trunk on Imagenette; 1 of 20 photos is kept to calibrate the scores
    train imagenette224 "$run/$1" --model "$1" --backbone "$run/trunk/checkpoint.safetensors" \
        --input-size 224 224 --hold-out 0.05 --recipe classification-strong --epochs 40 --batch-size 128 \
        --crop-sizes 128 160 192 --learning-rate 1e-3 --evaluate-every 5
}

segment() { # MODEL: fine-tune the trunk on CamVid
    train camvid11 "$run/$1" --model "$1" --classes 11 --backbone "$run/trunk/checkpoint.safetensors" \
        --input-size 352 480 --recipe segmentation-strong --set class_weight_offset=1.1 'scale=[0.6,2.0]' \
        --epochs 60 --crop-sizes 256x320 320x416 --evaluate-every 10
}

for seed in "${@:-0}"; do
    run=$runs/seed$seed
    train tinyimagenet64 "$run/trunk" --model resnet18 --input-size 64 64 --crop-sizes 48 64 --epochs 20 \
        --batch-size 512 --learning-rate 4e-3 --evaluate-every 5
    classify vt_resnet18
    segment vt_fpn_resnet18
    if [ -n "${BASELINES:-}" ]; then
        classify resnet18
        segment fpn_resnet18
    fi
done

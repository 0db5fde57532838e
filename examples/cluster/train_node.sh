#!/bin/bash
# Pretraining on several nodes without a queue. Start it on every node, first on HEAD, which keeps
# the rendezvous and must stay; the others may go and come back while training goes on:
#
#     HEAD=node0 NODES=2:4 examples/cluster/train_node.sh imagenet_vits16 --data /data/train --out /runs/s16
#
# NODES is the fewest and the most nodes; each number of processes that can occur should divide
# --optim.batch-size. --data and --out must be on a disk that all nodes see.
set -eu
# Or else, in PyTorch 2.15, a node that comes later waits for an address that is never told.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun \
    --nnodes "${NODES:?say how many, as in NODES=2:4}" --nproc-per-node "${PROCESSES:-gpu}" \
    --max-restarts "${RESTARTS:-100}" --rdzv-backend c10d \
    --rdzv-endpoint "${HEAD:?name the node that keeps the rendezvous}:${PORT:-29500}" \
    --rdzv-id "${RUN:-dino-train}" -m dino_train.cli "$@"

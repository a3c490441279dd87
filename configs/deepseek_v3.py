r"""DeepSeek-V3 as it was published, with its training recipe: to be counted and compiled.

    python -m experiments.main --config=configs/deepseek_v3.py --dry_run
    JAX_NUM_CPU_DEVICES=512 python -m experiments.main --config=configs/deepseek_v3.py --dry_run \
        --config.mesh.fsdp=16 --config.mesh.expert=32

prints its 671,026,419,200 parameters, of which a token meets 37,552,297,472, the FLOPs and the
cache that a token takes, and what each device must hold; the second as on 512 devices. Nothing is
allocated. Tokens are random: none of its data is public.

    python launch/compile.py --config=configs/deepseek_v3.py --topology=v5p:8x8x8 \
        --mesh=fsdp=16,expert=32 --strict

compiles its step for 512 chips, which are not there, in 4 to 7 minutes on two cores and under 6 GB:
21.7 GiB a chip at most, and no gather that became a sum. Plans over 128 to 4,096 chips stand in
experiments/reports/deepseek_v3_pods/compiled.md; on 128 a chip needs 70.3 GiB of its 95.

Parameters are split over the mesh as `slim.models.deepseek.sharding` says. Sequences of 4,096
tokens; the optimizer, the weights of the losses and the step of the biases are the paper's. So
are the types: AdamW's moments in bfloat16, weights and gradients in float32 (section 3.3.3), which
is 12 bytes a parameter with its gradient, 7.45 TiB in all; moments in float32
(`--config.train.optimizer=adamw`) take 9.93 TiB.

Arguments: `batch`, sequences of a step, of which the paper has 3,072 to 15,360; `smoke`, for 16
sequences of 128 tokens.

DeepSeek-V3, 2024, https://arxiv.org/abs/2412.19437, sections 4.2, 3.3.3 and 2.1.2.
"""

from ml_collections import ConfigDict

from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, batch=512, smoke=False)
    batch = 16 if args.smoke else args.batch
    return recipe.config(
        name="deepseek_v3",
        precision="bfloat16",
        data={
            "name": "random_tokens",
            "length": 128 if args.smoke else 4096,
            "vocabulary": 129_280,
            "batch_size": batch,
            "eval_batch_size": batch,
        },
        model={
            "name": "deepseek_v3",
            "balance_loss": "sequence",
            "balance_weight": 1e-4,
            "ahead_weight": 0.3,
            "remat": True,
            "attention_block": 512,
            "attention_heads": 32,
            "expert_parts": 8,
            "vocabulary_parts": 5,
        },
        mesh={"rules": ({"pattern": "*", "split": "deepseek"},)},
        stages=("train",),
        train={
            "epochs": 1.0,
            "optimizer": "adamw_bfloat16",
            "lr": 2.2e-4,
            "schedule": "constant",
            "momentum": 0.9,
            "beta2": 0.95,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
        },
        run={"histogram_epochs": 0.0},
    )

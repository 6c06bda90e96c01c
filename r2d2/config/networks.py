"""The section `model`: one for each network, which knows its own keys alone."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from r2d2.config.section import Section


def _weights(value: str) -> str:
    if value == "imagenet" or value.startswith("zoo:"):
        return value
    if not value.endswith((".keras", ".h5")):
        raise ValueError(f"should be imagenet, zoo:name@alias or a file .keras, .weights.h5 or .h5 (got {value!r})")
    return str(Path(value).expanduser().absolute())


class Freeze(Section):
    """Which blocks of the network stand still at first: `layers`, until `until_epoch` epochs are done.

    Blocks are named as their layers begin. `dist-unet`: `encoder` or one level of it, `encoder_1` to `encoder_DEPTH`,
    `bottom`, `decoder` or `decoder_1` to `decoder_DEPTH`. `dist-fcn`: `encoder` or `encoder_1` to `encoder_5`, `head`.
    """

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("encoder",)
    until_epoch: Annotated[int, Field(ge=1)]

    def holds(self, layer: str) -> bool:
        """Whether a layer of this name belongs to one of the blocks."""
        return layer.startswith(tuple(f"{block}_" for block in self.layers))


class Network(Section):
    """What networks have in common.

    `weights`: what it starts from, as far as that fits: `imagenet` (Keras' own files, for `dist-fcn`), a file (.keras,
    .weights.h5, or .h5 of Keras 2) or `zoo:name@alias`, a registered model; absent, it starts at random. `freeze`: the
    blocks that stand still at first, for which there must be weights; those that had none are named in the run.
    """

    network: str
    weights: Annotated[str, AfterValidator(_weights)] | None = None
    freeze: Freeze | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of its blocks, which `freeze` takes."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _blocks_that_there_are(self) -> "Network":
        for name in self.freeze.layers if self.freeze else ():
            if name not in self.blocks:
                raise ValueError(f"freeze.layers: no block {name!r} in this network; it has {', '.join(self.blocks)}")
        return self


class DistUNet(Network):
    """Dist-U-Net: `filters` at the first level, doubled at each of `depth` further ones.

    `normalization` after every convolution: `group` (of channels, each image by itself) or `batch` (each worker's own
    minibatch). `residual`: what enters a level's convolutions is added to what comes out.
    """

    network: Literal["dist-unet"] = "dist-unet"
    filters: Annotated[int, Field(ge=1, le=1024)] = 64
    depth: Annotated[int, Field(ge=1, le=7)] = 4
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    normalization: Literal["none", "group", "batch"] = "none"
    residual: bool = False

    @property
    def blocks(self) -> tuple[str, ...]:
        """The encoder, its levels, the bottom, the decoder, its levels."""
        levels = range(1, self.depth + 1)
        return (
            *("encoder", *(f"encoder_{level}" for level in levels), "bottom"),
            *("decoder", *(f"decoder_{level}" for level in levels)),
        )

    @field_validator("weights")
    @classmethod
    def _not_vgg(cls, weights: str | None) -> str | None:
        if weights == "imagenet":
            raise ValueError("imagenet is for dist-fcn, whose encoder is VGG's; give a file or zoo:name@alias")
        return weights


class DistFCN(Network):
    """Dist-FCN: VGG's five blocks of convolutions, a head, and scores brought back to the image in strides.

    `encoder`: `vgg19` has 2, 2, 4, 4, 4 convolutions (the paper's numbers), `vgg16` 2, 2, 3, 3, 3. `stride`: 32, 16 or
    8, how far apart the scores lie before they are enlarged to the image (FCN-32s, FCN-16s, FCN-8s). `head_width`:
    channels of the head's two convolutions, 7x7 and 1x1. The original's 4096 hold the 103 million weights of ImageNet's
    classifier, which Keras' encoder files lack; the default is the encoder's own width. `dropout`: after each of the
    two, in training.
    """

    network: Literal["dist-fcn"] = "dist-fcn"
    encoder: Literal["vgg16", "vgg19"] = "vgg19"
    stride: Literal[8, 16, 32] = 8
    head_width: Annotated[int, Field(ge=1, le=8192)] = 512
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5

    @property
    def blocks(self) -> tuple[str, ...]:
        """The encoder, its five blocks, the head."""
        return ("encoder", *(f"encoder_{block}" for block in range(1, 6)), "head")


def _network(value: Any) -> str:
    """The name of the network that a `model` section is of."""
    return str(value.get("network", "dist-unet")) if isinstance(value, dict) else getattr(value, "network", "dist-unet")


Model = Annotated[Annotated[DistUNet, Tag("dist-unet")] | Annotated[DistFCN, Tag("dist-fcn")], Discriminator(_network)]
NETWORKS: dict[str, type[Network]] = {"dist-unet": DistUNet, "dist-fcn": DistFCN}
"""Every network's section by the name it has in an experiment file; each knows its own keys alone."""

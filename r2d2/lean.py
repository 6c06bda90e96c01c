"""Start sooner: keep Keras from importing what R2D2's processes do not use of it."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

LEFT_OUT = ("sklearn", "matplotlib")
"""What Keras offers wrappers for and draws with: two fifths of the time that TensorFlow's import takes."""


class _NotForKeras:
    """Finds none of LEFT_OUT while Keras is being imported; whoever imports them later finds them."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG004
        target: ModuleType | None = None,  # noqa: ARG004
    ) -> ModuleSpec | None:
        keras = sys.modules.get("keras")
        if name in LEFT_OUT and keras is not None and getattr(keras.__spec__, "_initializing", False):
            raise ModuleNotFoundError(f"{name} is left out while Keras is imported", name=name)
        return None


def import_keras_alone() -> None:
    """Have this process import Keras, when it does, without LEFT_OUT; its `keras.wrappers` and plots then want them."""
    if _NotForKeras not in sys.meta_path:
        sys.meta_path.insert(0, _NotForKeras)

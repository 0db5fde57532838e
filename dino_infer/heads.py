"""Linear classifiers on features: what ``dino-eval linear`` trains, saves, and servers load.

A head is a ``.safetensors`` file: ``weight`` (classes, dim) and ``bias`` (classes), with metadata
JSON under the key "dino_head": ``classes``, and ``made_by``, the description of the embedder whose
features it takes (``weights_sha256``, ``feature``, ``preprocess`` ...).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped

from dino_infer.errors import DataError
from dino_infer.files import whole_file
from dino_infer.images.preprocess import Preprocess

METADATA_KEY = "dino_head"
FORMAT_VERSION = 1
_MADE_BY = {"weights_sha256": str, "feature": str, "preprocess": dict}
_SHOWN = 200  # letters of a reason that comes out of a file


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """A linear classifier on features.

    ::

        head = LinearHead.load("head.safetensors")
        labels = head.predict(embedder(["a.jpg", "b.jpg"]))

    Raises:
        ValueError: Shapes do not fit, or a number is not finite.
    """

    weight: Shaped[np.ndarray, "..."]
    """float32, (classes, dim)."""
    bias: Shaped[np.ndarray, "..."]
    """float32, (classes,)."""
    classes: tuple[str, ...]
    """Name of each class."""
    made_by: Mapping[str, Any]
    """Description of the embedder whose features it takes, see ``Embedder.description``."""

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.weight.ndim != 2 or self.weight.shape[0] != count or self.bias.shape != (count,):
            raise ValueError(
                f"{count} classes need weights of shape ({count}, dim) and biases of ({count},), "
                f"got {self.weight.shape} and {self.bias.shape}"
            )
        if {self.weight.dtype, self.bias.dtype} != {np.dtype(np.float32)}:
            raise ValueError(f"weights must be float32, got {self.weight.dtype}, {self.bias.dtype}")
        if not count or len(set(self.classes)) < count:
            raise ValueError(f"expected names of classes, each once, got {count}")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise ValueError("its weights hold NaN or infinity")

    def __repr__(self) -> str:
        feature = self.made_by.get("feature")
        return f"LinearHead({len(self.classes)} classes, dim={self.dim}, feature={feature!r})"

    @property
    def dim(self) -> int:
        """Length of the features."""
        return int(self.weight.shape[1])

    def logits(self, features: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows _"]:
        """Score of each class, before the softmax.

        Raises:
            ValueError: The features have another width.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(
                f"features must have shape (rows, {self.dim}), got {features.shape}; embed them as "
                f"the head's were: feature {self.made_by.get('feature')!r}"
            )
        scores: np.ndarray = features.astype(np.float32, copy=False) @ self.weight.T + self.bias
        return scores

    def predict_proba(
        self, features: Float[np.ndarray, "rows dim"]
    ) -> Float32[np.ndarray, "rows _"]:
        """Probability of each of ``classes``; rows sum to 1."""
        logits = self.logits(features)
        shares: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def predict(self, features: Float[np.ndarray, "rows dim"]) -> Shaped[np.ndarray, " rows"]:
        """Name of the most probable class of each row; of equal ones the first."""
        names = np.array(self.classes, dtype=object)
        chosen: np.ndarray = names[self.logits(features).argmax(axis=1)]
        return chosen

    def save(self, path: str | Path) -> None:
        """Write the head; an older file of that name is replaced.

        Raises:
            OSError: Nothing can be written there.
        """
        with whole_file(path) as temporary:
            self.write(temporary)

    def write(self, path: Path) -> None:
        """Write the head to a file that nothing else reads yet; ``save`` replaces one safely."""
        from safetensors.numpy import save_file

        metadata = {
            "format_version": FORMAT_VERSION,
            "classes": list(self.classes),
            "made_by": dict(self.made_by),
            "sha256": _sha256(self.weight, self.bias),
        }
        tensors = {
            "weight": np.ascontiguousarray(self.weight),
            "bias": np.ascontiguousarray(self.bias),
        }
        save_file(tensors, path, metadata={METADATA_KEY: json.dumps(metadata)})

    @classmethod
    def load(cls, path: str | Path) -> "LinearHead":
        """The head of a file that ``save`` wrote.

        Raises:
            DataError: The file is missing, damaged, or no head.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(METADATA_KEY)
                names = set(file.keys())
                if text is None or names != {"weight", "bias"}:
                    raise DataError(
                        f"{str(path)!r} is no head: expected the tensors weight and bias and "
                        f"metadata {METADATA_KEY!r}, got {', '.join(sorted(names)[:4]) or 'none'}; "
                        "dino-eval linear -o writes one"
                    )
                weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
            metadata = _checked(json.loads(text))
            if metadata["sha256"] != _sha256(weight, bias):
                raise ValueError("its weights are not those that were saved")
            return cls(
                weight=weight,
                bias=bias,
                classes=tuple(metadata["classes"]),
                made_by=metadata["made_by"],
            )
        except OSError as error:
            reason = error.strerror or "no such file"
            raise DataError(f"cannot read head {str(path)!r}: {reason}") from error
        except (SafetensorError, TypeError, ValueError, RecursionError) as error:
            reason = (str(error).splitlines() or ["damaged"])[0][:_SHOWN]
            raise DataError(
                f"head {str(path)!r} cannot be used: {reason}; copy or train it again"
            ) from error


def _checked(metadata: Any) -> dict[str, Any]:
    """The metadata of a head, with everything that is used later."""
    if not isinstance(metadata, dict):
        raise ValueError(f"its metadata must be an object, got {type(metadata).__name__}")
    version = metadata.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(f"its format version is {version!r}, this package reads {FORMAT_VERSION}")
    classes, made_by = metadata.get("classes"), metadata.get("made_by")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes must be a list of names")
    if not isinstance(made_by, dict):
        raise ValueError("its made_by must be an object")
    for name, kind in _MADE_BY.items():
        if not isinstance(made_by.get(name), kind):
            raise ValueError(f"its made_by must say {name}")
    Preprocess.from_metadata(made_by["preprocess"])
    if not isinstance(metadata.get("sha256"), str):
        raise ValueError("its sha256 is missing")
    return metadata


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

"""The flags of dino-serve, by what they are about; each has an environment variable DINO_NAME."""

import ipaddress
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from dino_app.server.settings import Settings
from dino_infer.choices import Crop, VectorFeature
from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import DeviceOptions, WeightOptions, check_positive
from dino_infer.errors import MissingExtraError

Flag = tyro.conf.FlagCreatePairsOff[bool]
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Address, and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs keys."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key_file: str | None = None
    """File with one key a line; DINO_API_KEYS may hold more, separated by commas or spaces."""
    insecure: Flag = False
    """Listen to other machines without keys."""
    trusted_proxies: str | None = None
    """Addresses, separated by commas, whose X-Forwarded-For is believed."""
    drain_notice_s: float = 0
    """Seconds after SIGTERM in which requests are still taken while /readyz says 503."""
    drain_s: float = 30
    """Seconds after that for requests in work to finish."""

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, kw_only=True)
class Network(DeviceOptions, WeightOptions):
    """Network that makes the vectors; by default that of the index."""

    head: Path | None = None
    """Classifier that dino-eval linear or logistic wrote, head.safetensors; /v1/classify then gives
    its classes. Without an index the network is by default that of the head."""
    feature: VectorFeature | None = None
    """Vector that stands for an image; by default that of the index, without an index cls."""
    size: int | None = None
    """Side of the crop in pixels; by default that of the index, without an index that of the
    training crops."""
    crop: Crop | None = None
    """Part of an image to use: the central square, or with none all of it; by default as in the
    index, without an index the central square."""

    def __post_init__(self) -> None:
        check_positive("--size", self.size)


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Answer requests for embeddings, search, classification and attention over HTTP.

    Without INDEX the server embeds images and draws attention. Every flag has an environment
    variable: DINO_PORT stands for --port, DINO_MAX_K for --max-k, DINO_INDEX for INDEX.
    """

    index: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="INDEX")] = None
    """Folder that dino-index built, or milvus:LOCATION; by default no index is served."""
    read_only: Flag = False
    """Refuse changes of the index, so that another process may write to it."""
    demo: Flag = False
    """Show the demo at /."""
    site: Path | None = None
    """Folder with an index.html to show at /, for pages that ask this server."""
    place: tyro.conf.OmitArgPrefixes[Place] = field(default_factory=Place)
    """Address, and who may use it."""
    network: tyro.conf.OmitArgPrefixes[Network] = field(default_factory=Network)
    """Network that makes the vectors; by default that of the index, and without an index
    timm:vit_small_patch16_224.dino."""
    limits: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    """Limits of requests."""


def with_environment(args: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Put the arguments that ``DINO_*`` variables stand for in front of the others.

    Raises:
        UsageError: The variable of a flag without a value is neither true nor false.
    """
    more = []
    for option in (*fields(Serve)[1:4], *fields(Place), *fields(Network), *fields(Settings)):
        value = environment.get(f"DINO_{option.name.upper()}", "")
        flag = f"--{option.name.replace('_', '-')}"
        if value and not any(arg.partition("=")[0] in (flag, _no(flag)) for arg in args):
            more += _argument(flag, value, is_switch=isinstance(option.default, bool))
    return [*more, *args]


def _argument(flag: str, value: str, *, is_switch: bool) -> list[str]:
    if not is_switch:
        return [flag, value]
    if value.lower() in TRUE:
        return [flag]
    if value.lower() in FALSE:
        return [_no(flag)] if flag == "--access-log" else []
    raise UsageError(f"the variable of {flag} must be one of {(*TRUE, *FALSE)}, got {value!r}")


def _no(flag: str) -> str:
    return f"--no-{flag[2:]}"


@contextmanager
def check_installed(prog: str) -> Iterator[None]:
    """Name the extra that is missing where an import fails."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{prog} needs {error.name}; install it with: pip install 'dino-toolkit[app]'"
        ) from error


@contextmanager
def temporary_uploads() -> Iterator[Path]:
    """Keep what the demo's pages upload in a folder of its own, and delete it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)


def check_site(site: Path | None, *, demo: bool) -> None:
    """Refuse a folder that has no page, or that has to share ``/`` with the demo.

    Raises:
        UsageError: It is such a folder.
    """
    if site is None:
        return
    if demo:
        raise UsageError("--site and --demo are both shown at /; pass one of them")
    if not (site / "index.html").is_file():
        raise UsageError(f"--site needs a folder with an index.html, got {str(site)!r}")


def check_place(place: Place, *, has_keys: bool) -> None:
    """Refuse to be open to other machines without keys.

    Raises:
        UsageError: It would be.
    """
    if not (place.is_local or has_keys or place.insecure):
        raise UsageError(
            f"--host {place.host} is reachable from other machines: pass --api-key-file (or "
            "DINO_API_KEYS), or --insecure to let everyone in"
        )

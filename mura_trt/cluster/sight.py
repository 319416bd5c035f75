"""What a worker on another machine must find there as the supervisor does here, before it takes a task."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mura_trt import gray
from mura_trt.archives.awaited import AwaitedSource
from mura_trt.archives.keys import display
from mura_trt.archives.listing import Listing, Reference, Unreadable
from mura_trt.bundle import Bundle
from mura_trt.errors import BundleError, EnvironmentProblem
from mura_trt.score_recipe import DECODERS, DICOM_LIBRARIES, ENGINES, installed_versions
from mura_trt.worker import WorkerConfig

VIEWS = 3  # that are looked for: the first, the last and one between them
_WAY_OUT = (
    "every node needs the archive and the bundle under the path that the command was given: a shared folder, or a URL"
)
LIBRARIES = ("mura-trt", *DECODERS, *ENGINES, "numpy", *DICOM_LIBRARIES)


@dataclass(frozen=True)
class Sight:
    """What the supervisor sees; it travels to the workers."""

    stamps: Sequence[tuple[str, Reference, bytes]]
    """Of some views: the name, what it is read by, and what changes when it does."""
    versions: Mapping[str, str]
    """Of the libraries that decide rows."""
    own_decoder: bool = True
    """Whether files are decoded by this package's own library."""

    @classmethod
    def of(cls, listing: Listing) -> Sight:
        """What this process sees of an archive; raises OSError where that cannot be opened."""
        reader = listing.source.open()
        stamps = []
        for view in sorted({(len(listing) - 1) * part // (VIEWS - 1) for part in range(VIEWS)}):
            ((reference,), names) = listing.references(view, view + 1), listing.keys(view, view + 1)
            with contextlib.suppress(OSError, ValueError, Unreadable):  # a view that is gone is told in its own row
                stamps.append((listing.part_name(display(names[0])), reference, reader.stamp(reference)))
        return cls(stamps, installed_versions(LIBRARIES), gray.available())

    def of_a_replacement(self) -> Sight:
        """What whoever starts later must see: files may have changed since, which their own rows tell."""
        return replace(self, stamps=())

    def check(self, config: WorkerConfig) -> None:
        """Compares with what this process sees.

        Raises
        ------
        EnvironmentProblem
            The bundle, the archive or a library is not there, or is another.
        """
        folder = config.bundle.folder
        try:
            there = Bundle.open(folder)
        except BundleError as error:
            raise EnvironmentProblem(f"{error}; {_WAY_OUT}") from error
        if there.sha256 != config.bundle.sha256:
            raise EnvironmentProblem(f"{folder}: another bundle than where the command runs; {_WAY_OUT}")
        what = config.source.root
        try:
            source = config.source
            if self.stamps and isinstance(source, AwaitedSource):  # a node that never had the archive is told at once
                source = source.source
            reader = source.open()
            for name, reference, stamp in self.stamps:
                what = f"{config.source.root}: {name}"
                if reader.stamp(reference) != stamp:
                    raise EnvironmentProblem(f"{what} is another file than where the command runs; {_WAY_OUT}")
        except (OSError, ValueError, Unreadable) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise EnvironmentProblem(f"{what} cannot be read here ({reason}); {_WAY_OUT}") from error
        if gray.available() != self.own_decoder:
            raise EnvironmentProblem(
                f"the C library of mura-trt is {'not ' if self.own_decoder else ''}there, other than where the command"
                " runs: install the same environment on all nodes, where there is a compiler"
            )
        here = installed_versions(LIBRARIES)
        for library, version in self.versions.items():
            if here.get(library) != version:
                raise EnvironmentProblem(
                    f"{library} is {here.get(library, 'not installed')} here, and {version} where the command runs:"
                    " install the same environment on all nodes"
                )

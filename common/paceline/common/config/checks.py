"""Which keys of a topology fit together. Each check yields what is wrong, where, and what to do; the first counts.

Nothing here opens a socket. Only `check_tokenizers` reads files: the tokenizers of model folders that are there.
"""

import difflib
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path as FilePath

from paceline.common.config.errors import Finding, Path
from paceline.common.config.identity import check_identity
from paceline.common.config.topology import ANY_ADDRESS, DrafterSection, HopSection, TargetSection, Topology
from paceline.common.errors import InvalidRequest, PacelineError
from paceline.common.hops.grpc import check_address
from paceline.common.padding import check_padding
from paceline.common.session.limits import check_rule, check_sampling
from paceline.common.tokenizer import Tokenizer

DRAFTER_OPTIONS: dict[str, tuple[str, ...]] = {
    "onnx": ("model", "digest", "precision", "num_threads", "max_length", "all_rows"),
    "torch": ("model", "digest", "device", "dtype", "num_threads", "max_length"),
    "ngram": ("min_ngram", "max_ngram"),
    "table": ("vocab_size", "agreement", "own_seed", "max_length"),
    "cascade": ("drafters", "tokens"),
    "vertical": ("drafters", "num_guesses"),
    "adaptive": ("drafters", "lengths"),
    "siblings": ("drafters",),
    "union": ("drafters",),
}
"""Keys each built-in drafter reads beside `kind` and `num_speculative_tokens`."""
TARGET_OPTIONS: dict[str, tuple[str, ...]] = {
    "transformers": ("model", "digest", "revision", "device", "dtype", "kv_cache_tokens"),
    "table": ("vocab_size", "seed", "step_ms"),
}
"""Keys each target reads beside the limits."""
DRAFTER_GROUP = "paceline.drafters"
"""Entry-point group where other packages register drafters."""


def find_faults(topology: Topology) -> Iterator[Finding]:
    """Everything wrong with a well-formed topology, the most telling first."""
    checks: tuple[Callable[[Topology], Iterable[Finding]], ...] = (
        _check_names,
        _check_roles,
        _check_drafter,
        _check_targets,
        _check_addresses,
        _check_upstreams,
        check_identity,
        _check_expectations,
        _check_law,
        _check_draft_length,
    )
    for check in checks:
        yield from check(topology)


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """A cure for a misspelt word: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise}: {', '.join(names)}"


def _check_names(topology: Topology) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, hop in enumerate(topology.hops):
        if hop.name in seen:
            yield Finding(
                ("hops", index, "name"),
                f"{hop.name!r} is also the name of hops[{seen[hop.name]}]",
                "names are unique: they label metrics",
            )
        seen.setdefault(hop.name, index)


def _check_roles(topology: Topology) -> Iterator[Finding]:
    last = len(topology.hops) - 1
    for index, hop in enumerate(topology.hops):
        path = ("hops", index)
        if last == 0 and hop.drafter is not None and hop.target is None:
            continue  # a device by itself
        if index == last:
            yield from _check_verifier(hop, path, "the last hop")
            if hop.upstream is not None:
                yield Finding(
                    (*path, "upstream"), "the last hop has none", "leave it out, or add the hop it names"
                )
        elif index == 0:
            if hop.target is not None:
                yield Finding(
                    (*path, "target"), "the first hop drafts, it does not verify", "put a hop before it"
                )
        else:
            yield from _check_verifier(hop, path, "a relay")
        if hop.drafter is not None and index == last:
            yield Finding((*path, "drafter"), "the last hop only verifies", "move it to the first hop")
        elif hop.drafter is not None and index > 0:
            yield Finding((*path, "drafter"), "a relay drafts with its own target", "leave it out")
        if hop.optional and index in (0, last):
            which = "first" if index == 0 else "last"
            yield Finding(
                (*path, "optional"), f"the chain cannot do without its {which} hop", "only relays can be"
            )


def _check_verifier(hop: HopSection, path: Path, what: str) -> Iterator[Finding]:
    if hop.target is None:
        yield Finding(
            (*path, "target"),
            f"{what} needs a target",
            "for example {kind: transformers, model: models/base}",
        )
    if hop.listen is None:
        yield Finding((*path, "listen"), f"{what} needs an address to serve on", "for example 0.0.0.0:7443")


def _check_drafter(topology: Topology) -> Iterator[Finding]:
    drafter = topology.hops[0].drafter
    if drafter is not None:
        yield from _check_drafter_section(drafter, ("hops", 0, "drafter"))


def _check_drafter_section(drafter: DrafterSection, path: Path) -> Iterator[Finding]:
    """One drafter, and what it is made of."""
    if drafter.kind not in DRAFTER_OPTIONS:
        installed = entry_points(group=DRAFTER_GROUP).names
        if drafter.kind not in installed:
            yield Finding(
                (*path, "kind"),
                f"there is no drafter {drafter.kind!r}",
                nearest(drafter.kind, {*DRAFTER_OPTIONS, *installed}, "known"),
            )
        yield from _foreign_keys(
            drafter, ("options",), path, f"the drafter {drafter.kind!r} of another package"
        )
        return
    yield from _foreign_keys(drafter, DRAFTER_OPTIONS[drafter.kind], path, f"the drafter {drafter.kind!r}")
    if drafter.kind in ("onnx", "torch") and drafter.model is None:
        yield Finding((*path, "model"), f"the drafter {drafter.kind!r} needs a model", "name its folder")
    if (drafter.min_ngram or 2) > (drafter.max_ngram or 8):
        yield Finding(
            (*path, "min_ngram"),
            f"{drafter.min_ngram} is more than max_ngram {drafter.max_ngram or 8}",
            "swap them",
        )
    if drafter.agreement is not None and not 0 <= drafter.agreement <= 1:
        yield Finding((*path, "agreement"), f"{drafter.agreement} is not between 0 and 1", "for example 0.8")
    if "drafters" in DRAFTER_OPTIONS[drafter.kind]:
        yield from _check_parts(drafter, path)


def _check_parts(drafter: DrafterSection, path: Path) -> Iterator[Finding]:
    """Whether the drafters that one is made of fit together; each is checked like a drafter of its own."""
    parts = drafter.drafters or ()
    if not parts:
        yield Finding((*path, "drafters"), f"the drafter {drafter.kind!r} is made of others", "list them")
        return
    for index, part in enumerate(parts):
        if part.num_speculative_tokens != "auto":
            yield Finding(
                (*path, "drafters", index, "num_speculative_tokens"),
                f"the block is that of the {drafter.kind!r} drafter around it",
                "set it there",
            )
        yield from _check_drafter_section(part, (*path, "drafters", index))
    num_shares = len(drafter.tokens or ())
    if drafter.kind == "cascade" and not len(parts) - 1 <= num_shares <= len(parts):
        yield Finding(
            (*path, "tokens"),
            f"{num_shares} numbers do not share a block between {len(parts)} drafters",
            "one per drafter; the last may be left out and writes the rest",
        )
    if drafter.kind in _AT_LEAST_TWO and len(parts) < 2:
        yield Finding((*path, "drafters"), "has at least two drafters", _AT_LEAST_TWO[drafter.kind])
    if drafter.kind == "vertical":
        yield from _check_readers(parts, path)


_AT_LEAST_TWO = {
    "vertical": "add who guesses for the model",
    "siblings": "add another, or name this one alone",
    "union": "add another, or name this one alone",
}
"""Kinds that are nothing with one drafter, and what to do about it."""
_READERS = ("onnx", "torch", "table")
"""Built-in drafters that can check another's guesses."""


def _check_readers(parts: tuple[DrafterSection, ...], path: Path) -> Iterator[Finding]:
    """All but the last of a vertical cascade read guesses; what another package's can do shows when it is loaded."""
    for index, part in enumerate(parts[:-1]):
        if part.kind in DRAFTER_OPTIONS and part.kind not in _READERS:
            yield Finding(
                (*path, "drafters", index, "kind"),
                f"nobody can guess for the drafter {part.kind!r}",
                "only models read guesses: onnx or torch",
            )
        elif part.kind == "onnx" and not part.all_rows:
            yield Finding(
                (*path, "drafters", index, "all_rows"),
                "the model tells what comes after its last token only, so nobody can guess for it",
                "all_rows: true",
            )


def _foreign_keys(
    section: DrafterSection | TargetSection, known: tuple[str, ...], path: Path, who: str
) -> Iterator[Finding]:
    """Keys that are set but belong to another kind."""
    specific = DRAFTER_KEYS if isinstance(section, DrafterSection) else TARGET_KEYS
    for key in section.model_fields_set & specific - set(known):
        yield Finding((*path, key), f"is no option of {who}", f"its options: {', '.join(known)}")


DRAFTER_KEYS = frozenset({"options"}.union(*DRAFTER_OPTIONS.values()))
TARGET_KEYS = frozenset[str]().union(*TARGET_OPTIONS.values())


def _check_targets(topology: Topology) -> Iterator[Finding]:
    for index, hop in enumerate(topology.hops):
        if hop.target is None:
            continue
        path, target = ("hops", index, "target"), hop.target
        yield from _foreign_keys(target, TARGET_OPTIONS[target.kind], path, f"a {target.kind} target")
        if target.kind == "transformers" and target.model is None:
            yield Finding(
                (*path, "model"), "a transformers target needs a model", "name its folder or hub id"
            )
        if target.prefill_chunk_tokens > target.max_step_tokens:
            yield Finding(
                (*path, "prefill_chunk_tokens"),
                f"{target.prefill_chunk_tokens} is more than max_step_tokens {target.max_step_tokens}",
                "a chunk is part of a step",
            )


def _check_addresses(topology: Topology) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, hop in enumerate(topology.hops):
        for address, path in _addresses(hop, index):
            if fault := _address_fault(address):
                yield Finding(path, *fault)
        if hop.listen is None:
            continue
        if hop.listen in seen:
            yield Finding(
                ("hops", index, "listen"),
                f"{hop.listen} is also where hops[{seen[hop.listen]}] listens",
                "give each hop its own port",
            )
        seen.setdefault(hop.listen, index)


def _addresses(hop: HopSection, index: int) -> Iterator[tuple[str, Path]]:
    """Every HOST:PORT of a hop, and where it stands; names of hops have no colon."""
    if hop.listen is not None:
        yield hop.listen, ("hops", index, "listen")
    yield from ((one, path) for one, path in _upstreams(hop, index) if ":" in one)


def _upstreams(hop: HopSection, index: int) -> list[tuple[str, Path]]:
    """What a hop calls its upstream, and where it says so; a list is told from a single text by its second item."""
    path: Path = ("hops", index, "upstream")
    stated = hop.upstream or ()
    return [(one, path if len(stated) == 1 else (*path, place)) for place, one in enumerate(stated)]


def _address_fault(address: str) -> tuple[str, str] | None:
    try:
        check_address(address, "")
    except InvalidRequest as error:
        return error.message, error.cure or "for example 127.0.0.1:7443"
    host, _, port = address.rpartition(":")
    if int(port) == 0:
        return f"{address} has no fixed port", "the hop below must know it; for example 7443"
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1] if host.endswith("]") else host)
        except ValueError:
            return f"{address} has not an IPv6 address in its brackets", "for example [::1]:7443"
    elif ":" in host or "/" in host or any(c.isspace() for c in host):
        return f"{address!r} is not HOST:PORT", "no scheme, no path; IPv6 in brackets"
    return None


def _check_upstreams(topology: Topology) -> Iterator[Finding]:
    for index, hop in enumerate(topology.hops[:-1]):
        seen: set[str] = set()
        for place, (upstream, path) in enumerate(_upstreams(hop, index)):
            if upstream in seen:
                yield Finding(path, f"{upstream} is given twice", "keep one of them")
            seen.add(upstream)
            if ":" in upstream:
                yield from _check_upstream_address(hop, upstream, path)
            else:
                yield from _check_upstream_name(topology, index, upstream, path, is_first=place == 0)


def _check_upstream_address(hop: HopSection, upstream: str, path: Path) -> Iterator[Finding]:
    if upstream.rpartition(":")[0] in ANY_ADDRESS:
        yield Finding(path, f"{upstream} cannot be connected to", "name one host, for example 127.0.0.1")
    elif upstream == hop.listen:
        yield Finding(path, f"{hop.name} would be its own upstream", "name the next hop's address")


def _check_upstream_name(
    topology: Topology, index: int, upstream: str, path: Path, *, is_first: bool
) -> Iterator[Finding]:
    hops, following = topology.hops, topology.hops[index + 1]
    place = topology.index_of(upstream)
    if place is None:
        names = [hop.name for hop in hops]
        yield Finding(path, f"there is no hop {upstream!r}", nearest(upstream, names, "hops"))
    elif place <= index:
        yield Finding(
            path,
            f"{upstream!r} is not above {hops[index].name!r}: the chain would loop",
            f"the next hop is {following.name!r}",
        )
    elif is_first and place != index + 1:
        yield Finding(path, f"{upstream!r} is not the next hop", f"the next one is {following.name!r}")
    else:
        needed = next((hop.name for hop in hops[index + 1 : place] if not hop.optional), None)
        if needed is not None:
            yield Finding(
                path,
                f"{upstream!r} is beyond {needed!r}, which the chain cannot do without",
                f"leave it out, or make {needed!r} optional: true",
            )


def _check_expectations(topology: Topology) -> Iterator[Finding]:
    last = len(topology.hops) - 1
    for index, hop in enumerate(topology.hops):
        if (expect := hop.expect) is None:
            continue
        path = ("hops", index, "expect")
        if expect.rtt_ms is not None and index == last:
            yield Finding((*path, "rtt_ms"), "there is no hop above the last", "move it to the hop below")
        if expect.draft_ms is not None and hop.drafter is None:
            yield Finding((*path, "draft_ms"), f"{hop.name} has no drafter", "move it to the first hop")
        for key in ("verify_ms", "verify_per_token_ms", "acceptance"):
            if getattr(expect, key) is not None and hop.target is None:
                yield Finding((*path, key), f"{hop.name} does not verify", "move it to a hop with a target")
        below = [lower.name for lower in topology.hops[:index]]
        for name in expect.acceptance or ():
            if name not in below:
                yield Finding(
                    (*path, "acceptance", name),
                    f"there is no hop {name!r} below {hop.name!r}",
                    nearest(name, below, "below it"),
                )


def _check_law(topology: Topology) -> Iterator[Finding]:
    params, rule = topology.sampling.params, topology.effective_rule
    try:
        check_sampling(params)
    except InvalidRequest as error:
        yield Finding(("sampling", error.field), error.message, error.cure or "give a number in range")
        return
    try:
        check_rule(rule, params, frozenset(type(rule)))
        check_padding(topology.pad_to, rule)
    except InvalidRequest as error:
        yield Finding((error.field,), error.message, error.cure)
    for index, hop in enumerate(topology.hops):
        if hop.target is not None and rule not in hop.target.rules:
            yield Finding(
                ("hops", index, "target", "rules"),
                f"the chain's rule {rule} is not among them",
                f"add it, or set `rule` to one of {', '.join(hop.target.rules)}",
            )


def _check_draft_length(topology: Topology) -> Iterator[Finding]:
    drafter = topology.hops[0].drafter
    if drafter is None or len(topology.hops) < 2 or drafter.num_speculative_tokens == "auto":
        return
    target = topology.hops[1].target
    if target is not None and drafter.num_speculative_tokens > target.max_draft_tokens:
        yield Finding(
            ("hops", 0, "drafter", "num_speculative_tokens"),
            f"{drafter.num_speculative_tokens} is more than {topology.hops[1].name} takes in a block",
            f"at most its max_draft_tokens, {target.max_draft_tokens}",
        )


def model_of(hop: HopSection) -> tuple[str, str] | None:
    """Section and folder of the model a hop holds; None if it holds none."""
    if hop.target is not None and hop.target.model is not None:
        return "target", hop.target.model
    if hop.drafter is not None:
        return next((("drafter", model) for _, model in _drafter_models(hop.drafter, ())), None)
    return None


def _drafter_models(drafter: DrafterSection, path: Path) -> Iterator[tuple[Path, str]]:
    """Where a drafter and those it is made of name their models, and the folders."""
    if drafter.model is not None:
        yield (*path, "model"), drafter.model
    for index, part in enumerate(drafter.drafters or ()):
        yield from _drafter_models(part, (*path, "drafters", index))


def _models(hop: HopSection, path: Path) -> Iterator[tuple[Path, str]]:
    if hop.target is not None and hop.target.model is not None:
        yield (*path, "target", "model"), hop.target.model
    if hop.drafter is not None:
        yield from _drafter_models(hop.drafter, (*path, "drafter"))


def fingerprint_of(model: str) -> bytes | None:
    """Fingerprint of a model folder's tokenizer; None if the folder or its tokenizer is not here.

    Raises:
        InvalidRequest: the tokenizer is damaged.
    """
    folder = FilePath(model)
    return Tokenizer(folder).fingerprint if (folder / "tokenizer.json").is_file() else None


def check_tokenizers(topology: Topology) -> Iterator[Finding]:
    """Models that are here and do not share the last hop's vocabulary."""
    reference: bytes | None = None
    hops = reversed(list(enumerate(topology.hops)))
    for path, model in chain.from_iterable(_models(hop, ("hops", index)) for index, hop in hops):
        try:
            found = fingerprint_of(model)
        except PacelineError as error:
            yield Finding(path, error.message, "save the model again")
            continue
        if reference is not None and found is not None and found != reference:
            yield Finding(
                path,
                f"the vocabulary of {model} ({found.hex()[:12]}) is not that of the hops above "
                f"({reference.hex()[:12]})",
                "all models of a chain share one tokenizer",
            )
        reference = reference or found

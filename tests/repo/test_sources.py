"""Nothing in the product turns bytes into code: no pickle, no evaluated text, unsafe YAML, shell or remote code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = {"common", "edge", "cloud", "relay", "training", "simulation", "benchmarks", "cli", "examples"}
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
NAMES = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *("torch.load", "torch.save", "torch.jit.load", "torch.package.PackageImporter", "os.system", "os.popen"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load"),
    *("yaml.unsafe_load_all", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.CLoader"),
}
ENDS = {"recv_pyobj", "send_pyobj", "apply_chat_template"}
"""Banned whatever they are called on. The last renders a template that comes with the model, or from a peer."""
KEYWORDS = {"trust_remote_code": False, "shell": False, "allow_pickle": False, "weights_only": True}
"""Keyword to the one value it may have."""


def faults(source: str) -> list[str]:
    """What a module does that none may, with line numbers."""
    return [f"{node.lineno}: {what}" for node in ast.walk(ast.parse(source)) for what in _faults(node)]


def _faults(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (f"import {one.name}" for one in names if one.name.partition(".")[0] in MODULES)
        case ast.ImportFrom(module=str(module), names=names):
            if module.partition(".")[0] in MODULES:
                yield f"from {module} import"
            named = (f"{module}.{one.name}" for one in names)
            yield from (f"from {one}" for one in named if one in METHODS)
        case ast.Attribute():
            dotted = ast.unparse(node)
            if dotted in METHODS or node.attr in ENDS:
                yield dotted
        case ast.Call():
            yield from _call_faults(node)


def _call_faults(node: ast.Call) -> Iterator[str]:
    given = {one.arg: ast.unparse(one.value) for one in node.keywords if one.arg}
    if isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield node.func.id
    for keyword, value in given.items():
        if keyword in KEYWORDS and value != repr(KEYWORDS[keyword]):
            yield f"{keyword}={value}"
    if isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
        owner = ast.unparse(node.func.value).rpartition(".")[2]
        if "GenerationConfig" not in owner and given.get("trust_remote_code") != "False":
            yield f"{owner}.from_pretrained without trust_remote_code=False"
        if owner.endswith(("CausalLM", "Model")) and given.get("use_safetensors") != "True":
            yield f"{owner}.from_pretrained without use_safetensors=True"


def test_no_module_turns_bytes_into_code(tracked: list[Path], root: Path) -> None:
    """Every module that is shipped, and every example."""
    ours = [path for path in tracked if path.suffix == ".py" and path.relative_to(root).parts[0] in FOLDERS]
    found = {str(path.relative_to(root)): faults(path.read_text()) for path in ours}

    assert len(ours) > 200
    assert {name: what for name, what in found.items() if what} == {}


MUTANTS = (
    "import pickle",
    "import torch, pickle as harmless",
    "from pickle import loads",
    "def f():\n    import marshal",
    "torch.load(path)",
    "torch.load(path, weights_only=True)",
    "from torch import load",
    "load = torch.load",
    "eval(text)",
    "exec(text, {})",
    "yaml.load(text, Loader=yaml.SafeLoader)",
    "yaml.compose(text, Loader=yaml.UnsafeLoader)",
    "socket.recv_pyobj()",
    "tokenizer.apply_chat_template(messages, chat_template=theirs)",
    "np.load(path, allow_pickle=True)",
    "AutoConfig.from_pretrained(path, trust_remote_code=True)",
    "AutoConfig.from_pretrained(path, trust_remote_code=trust)",
    "AutoTokenizer.from_pretrained(path)",
    "transformers.AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False)",
    "subprocess.run(command, shell=True)",
    "asyncio.create_subprocess_shell(command)",
    "os.system(command)",
)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_sees(mutant: str, root: Path) -> None:
    """Each banned thing is found, also at the end of a module that is sound without it."""
    sound = (root / "cloud/paceline/cloud/loading.py").read_text()

    assert faults(mutant)
    assert faults(sound) == []
    assert len(faults(f"{sound}\n{mutant}\n")) == len(faults(mutant))


@pytest.mark.parametrize(
    "harmless",
    [
        "model.eval()",
        "re.compile('x')",
        "json.load(file)",
        "yaml.safe_load(text)",
        "yaml.compose(text, Loader=yaml.SafeLoader)",
        "AutoTokenizer.from_pretrained(path, trust_remote_code=False)",
        "subprocess.run(command, shell=False)",
    ],
)
def test_the_check_sees_no_ghosts(harmless: str) -> None:
    """What is safe is not banned."""
    assert faults(harmless) == []


def test_no_peer_sends_a_template(root: Path) -> None:
    """The protocol has no text that anybody would render: prompts are token ids."""
    protocol = (root / "proto/paceline/v1/verifier.proto").read_text()

    assert "template" not in protocol

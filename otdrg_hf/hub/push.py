"""Pushing a model: checks what may go to the Hub, lists the files that go, and uploads them in one commit."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from otdrg_hf.hub.card_file import CARD_FILE, is_draft
from otdrg_hf.hub.eval_results_file import eval_results_files
from otdrg_hf.hub.model_card import read_config
from otdrg_hf.hub.provenance import RECORD_FILE, is_credentialed, read_stages, sources_of, transfer_line
from otdrg_hf.hub.space import ENDPOINT_FILES, TEMPLATES, push_space

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
REQUIRED = ("config.json", "processor_config.json", "tokenizer_config.json", CARD_FILE)
# What processors and tokenizers of the backbones are saved as.
OPTIONAL = (
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    RECORD_FILE,
)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
LOCAL_PATH = re.compile(r"(?:/[^/\s]+){2,}/?|~/.*|file://.*|[A-Za-z]:[\\/].*|\\\\.*")
# A repository with this file is one that an OTDRG model was pushed to before.
OWN_FILE = "configuration_otdrg.py"
HARMLESS = {".gitattributes", "README.md", "LICENSE", "LICENSE.md"}


@dataclass(frozen=True)
class UploadFile:
    """A file that goes: its name in the repository, where it is here, and its bytes."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class PushPlan:
    """What a push does: the files that go, where to, and for whose eyes."""

    repo_id: str
    revision: str | None
    private: bool
    credentialed: bool
    files: list[UploadFile]
    transfer: list[str] = field(default_factory=list)  # lines of what each clinical reward gained and lost

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def to_dict(self) -> dict:
        """Ready for JSON, without paths."""
        files = [{"name": file.name, "size": file.size} for file in self.files]
        plan = {**asdict(self), "files": files, "size": self.size}
        return plan if self.transfer else {name: value for name, value in plan.items() if name != "transfer"}

    def text(self) -> str:
        """A line a file, then the sum."""
        lines = [f"{file.size:>14,}  {file.name}" for file in self.files]
        kept = "private" if self.private else "public"
        where = f"{self.repo_id}, revision {self.revision or 'main'}, {kept}"
        lines.append(f"{self.size:>14,}  bytes in {len(self.files)} files to {where}")
        if self.credentialed:
            lines.append("Learned from credentialed data: let in only people who have signed its data use agreement.")
        return "\n".join([*lines, *self.transfer])


def check_repo_id(repo_id: str) -> None:
    """Raises `ValueError` for what is not a name of a repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is not a name of a repository, such as org/model: {error}") from None


def plan_push(
    model_dir: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    data_may_be_public: bool = False,
    endpoint: bool = False,
) -> PushPlan:
    """
    Checks a model folder and lists what would go. The network is not touched.

    Args:
        model_dir (`str` or `os.PathLike`): The folder of a model, with its card.
        repo_id (`str`): Such as `"org/otdrg-iu-xray"`.
        private (`bool`, *optional*, defaults to `False`): Whether the repository is to be private.
        revision (`str`, *optional*): The branch to push to; made if it is not there.
        data_may_be_public (`bool`, *optional*, defaults to `False`): The user's word that a model of data of their
            own, or of data that was not recorded, may be public.
        endpoint (`bool`, *optional*, defaults to `False`): Add what Inference Endpoints run the model by.

    Raises:
        ValueError: for what must not go, in one line.
    """
    check_repo_id(repo_id)
    folder = Path(model_dir)
    _refuse_datasets(folder)
    files = upload_list(folder) + (_endpoint_list() if endpoint else [])
    stages = read_stages(folder)
    credentialed = is_credentialed(stages)
    if credentialed and not private:
        raise ValueError(
            f"{folder.name} has learned from MIMIC-CXR, whose data use agreement binds what is derived from it: "
            "publish it on PhysioNet (https://physionet.org/about/publish/), or push it with --private and let in only "
            "people who have signed the agreement."
        )
    unknown = [source.title for source in sources_of(stages) if not source.known]
    if unknown and not private and not data_may_be_public:
        raise ValueError(
            f"{folder.name} has learned from {' and '.join(unknown)}: push it with --private, or say by "
            "--data_may_be_public that no agreement about the data forbids it."
        )
    transfer = [transfer_line(stage["transfer"]) for stage in stages if stage.get("transfer")]
    return PushPlan(repo_id, revision, private, credentialed, files, transfer)


def _refuse_datasets(folder: Path) -> None:
    from otdrg_hf.data.prepared import is_prepared_folder, read_summary

    if not folder.is_dir() or (folder / "config.json").is_file() or not is_prepared_folder(str(folder)):
        return
    if read_summary(str(folder)).get("source") == "mimic_cxr":
        raise ValueError(
            f"{folder.name} is data of MIMIC-CXR, which must not be passed on, not even in private: others get it "
            "from PhysioNet, and prepare it by otdrg prepare."
        )
    raise ValueError(f"{folder.name} is a dataset: otdrg push uploads models only.")


def push_page(plan: PushPlan, space_id: str, message: str = "Upload OTDRG page") -> str:
    """
    Makes a Space that runs the model of a plan; private if the model is. Returns and raises as [`push_model`].
    """
    with _plain_errors(space_id):
        return push_space(space_id, plan.repo_id, plan.private, message)


def push_model(plan: PushPlan, message: str = "Upload OTDRG model") -> str:
    """
    Uploads the files of a plan in one commit, which is there whole or not at all.

    Weights that the repository holds from an earlier push and that the model no longer has are deleted: loading
    could take them for the model's.

    Returns:
        `str`: Address of the commit.

    Raises:
        ValueError: for a repository that holds something else, or is public where it must not be.
        OSError: without a token, without the right to write, or if the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise OSError("There is no token for the Hub: run `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    with _plain_errors(plan.repo_id):
        there = _open_repository(api, plan)
        operations: list = [CommitOperationAdd(file.name, str(file.path)) for file in plan.files]
        stale = {name for name in there if _is_weight(name)} - {file.name for file in plan.files}
        operations += [CommitOperationDelete(name) for name in sorted(stale)]
        commit = api.create_commit(plan.repo_id, operations, commit_message=message, revision=plan.revision)
    return commit.commit_url


def _open_repository(api, plan: PushPlan) -> list[str]:
    """Makes the repository and the branch if need be; gives the files that are there already."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(plan.repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(plan.repo_id, private=plan.private, exist_ok=False)
        there = []
    else:
        if plan.private and not info.private:
            raise ValueError(
                f"{plan.repo_id} is there already and public, which --private does not change: make it private in its "
                "settings, or choose another name."
            )
        there = api.list_repo_files(plan.repo_id)
        others = sorted(set(there) - HARMLESS)
        if others and OWN_FILE not in there:
            raise ValueError(
                f"{plan.repo_id} is there already and holds something else ({', '.join(others[:3])}"
                f"{', ...' if len(others) > 3 else ''}): choose another name."
            )
    if plan.revision is not None:
        api.create_branch(plan.repo_id, branch=plan.revision, exist_ok=True)
        there = api.list_repo_files(plan.repo_id, revision=plan.revision)
    return there


def _endpoint_list() -> list[UploadFile]:
    paths = [TEMPLATES / "endpoint" / name for name in ENDPOINT_FILES]
    return [UploadFile(path.name, path, path.stat().st_size) for path in paths]


def _is_weight(name: str) -> bool:
    return name in (WEIGHTS, WEIGHTS_INDEX) or (name.startswith("model-") and name.endswith(".safetensors"))


@contextmanager
def _plain_errors(repo_id: str) -> Iterator[None]:
    """Turns what the Hub's client raises into one line of what is wrong and what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = " ".join((error.server_message or str(error)).split())
        if status in (401, 403):
            raise OSError(
                f"The token may not write to {repo_id}: take one with the right to write, or another name. The Hub "
                f"says: {said}"
            ) from None
        raise OSError(f"The Hub refused the push to {repo_id} (status {status}): {said}") from None
    except OfflineModeIsEnabled:
        raise OSError("HF_HUB_OFFLINE is set: unset it to push.") from None
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise OSError(
            f"The Hub cannot be reached ({type(error).__name__}): try again when it can; no file is there by halves."
        ) from None


def upload_list(model_dir: Path) -> list[UploadFile]:
    """
    The files that go, by name. What is on no list stays: checkpoints, logs, data, anything else in the folder.

    Raises:
        ValueError: for a folder that is not a whole OTDRG model with its code and card, holds pickles, or names a path
            of this machine in a file that would go.
    """
    _refuse_other_folders(model_dir)
    pickles = sorted(path.name for path in model_dir.iterdir() if path.suffix.lower() in PICKLES and path.is_file())
    if pickles:
        raise ValueError(
            f"{model_dir.name} holds pickles, which can run code where they are loaded: {', '.join(pickles)}. Push the "
            "folder that the training wrote at its end (a checkpoint-* folder is for going on), or delete them."
        )
    config = read_config(model_dir)
    missing = [name for name in REQUIRED if not (model_dir / name).is_file()]
    if missing:
        raise ValueError(f"{model_dir.name} lacks {', '.join(missing)}: {_remedy(missing)}")
    if is_draft((model_dir / CARD_FILE).read_text(encoding="utf-8")):
        raise ValueError(f"{CARD_FILE} is a draft of the trainer: run `otdrg card` on the folder first.")
    names = {*REQUIRED, *_weights(model_dir), *_code(model_dir, config)}
    names |= {name for name in OPTIONAL if (model_dir / name).is_file()}
    names |= set(eval_results_files(model_dir))
    files = [UploadFile(name, model_dir / name, (model_dir / name).stat().st_size) for name in sorted(names)]
    for file in files:
        _refuse_local_paths(file, model_dir)
    return files


def _refuse_other_folders(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder.name}: give the folder of a model.")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder.name} is a LoRA adapter, which names its base by a path of this machine: make a whole model of "
            "it first, by otdrg merge ADAPTER_DIR MODEL_DIR."
        )


def _remedy(missing: list[str]) -> str:
    if missing == [CARD_FILE]:
        return "run `otdrg card` on the folder first."
    return 'save it whole, by pipeline("radiology-report", model=...).save_pretrained(folder).'


def _weights(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    try:
        shards = set(json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        raise ValueError(f"{folder.name} has no weights in safetensors: save the model by save_pretrained.") from None
    except (ValueError, KeyError, AttributeError):
        raise ValueError(f"{WEIGHTS_INDEX} cannot be read: save the model again.") from None
    absent = sorted(name for name in shards if Path(name).name != name or not (folder / name).is_file())
    if absent:
        raise ValueError(f"{folder.name} lacks the weights {', '.join(absent)}: save the model again.")
    return [WEIGHTS_INDEX, *shards]


def _code(folder: Path, config: dict) -> set[str]:
    """The modules that config.json names, with all that they import from the folder."""
    from transformers.dynamic_module_utils import get_relative_import_files

    pipelines = config.get("custom_pipelines") or {}
    references = [*(config.get("auto_map") or {}).values(), *(entry.get("impl", "") for entry in pipelines.values())]
    if "radiology-report" not in pipelines or "AutoProcessor" not in (config.get("auto_map") or {}):
        raise ValueError(
            f"{folder.name} does not carry its code, which people without otdrg_hf need: save it by "
            'pipeline("radiology-report", model=...).save_pretrained(folder).'
        )
    names = {f"{reference.split('.')[0]}.py" for reference in references}
    absent = sorted(name for name in names if not (folder / name).is_file())
    try:
        for name in names - set(absent):
            names = names | {Path(path).name for path in get_relative_import_files(folder / name)}
    except FileNotFoundError as error:
        absent = [Path(error.filename).name]
    if absent:
        raise ValueError(f"{folder.name} lacks code that it needs, {', '.join(absent)}: save the model again.")
    return names


def _refuse_local_paths(file: UploadFile, folder: Path) -> None:
    if file.path.suffix in (".md", ".yaml"):
        text = file.path.read_text(encoding="utf-8")
        if str(folder.absolute()) in text or str(Path.home()) + "/" in text:
            raise ValueError(f"{file.name} names a folder of this machine: write it without.")
    # Not tokenizer.json and the like: any string may be a word there.
    if file.name.endswith(("config.json", RECORD_FILE)):
        try:
            content = json.loads(file.path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{file.name} is not valid JSON: save the model again.") from None
        for key, text in _strings(content):
            if LOCAL_PATH.fullmatch(text):
                raise ValueError(f"{file.name} names a path of this machine under {key!r}: change it there first.")


def _strings(content, key: str = ""):
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _strings(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, key)
    elif isinstance(content, str):
        yield key, content

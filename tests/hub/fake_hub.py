"""A stand-in for [`huggingface_hub.HfApi`] that keeps repositories in memory and notes every call."""

from types import SimpleNamespace

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError


def hub_error(kind=HfHubHTTPError, status: int = 500, words: str = "Internal error"):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} Client Error\n\n{words}", response=response)


class FakeHub:
    """
    Attributes:
        repositories (`dict[str, SimpleNamespace]`): `private` and `branches`, each `{file: bytes}`, by name.
        calls (`list[str]`): Methods, in order.
        failing (`dict[str, Exception]`): What a method raises instead of doing its work.
    """

    def __init__(self):
        self.repositories, self.calls, self.failing, self.messages = {}, [], {}, []

    def add(self, name: str, private: bool = False, **files: bytes):
        self.repositories[name] = SimpleNamespace(private=private, branches={"main": dict(files)})

    def _call(self, method: str, repo_id: str):
        self.calls.append(method)
        if method in self.failing:
            raise self.failing[method]
        return self.repositories.get(repo_id)

    def model_info(self, repo_id):
        if (repository := self._call("model_info", repo_id)) is None:
            raise hub_error(RepositoryNotFoundError, 404, "Repository not found")
        return repository

    def space_info(self, repo_id):
        if (repository := self._call("space_info", repo_id)) is None:
            raise hub_error(RepositoryNotFoundError, 404, "Repository not found")
        return repository

    def create_repo(self, repo_id, *, private, exist_ok, repo_type=None, space_sdk=None):
        assert (repo_type, space_sdk) in ((None, None), ("space", "gradio"))
        assert self._call("create_repo", repo_id) is None and not exist_ok
        self.add(repo_id, private)

    def create_branch(self, repo_id, *, branch, exist_ok):
        repository = self._call("create_branch", repo_id)
        assert exist_ok
        repository.branches.setdefault(branch, dict(repository.branches["main"]))

    def list_repo_files(self, repo_id, revision=None, repo_type=None):
        return list(self._call("list_repo_files", repo_id).branches[revision or "main"])

    def create_commit(self, repo_id, operations, *, commit_message, revision=None, repo_type=None):
        repository = self._call("create_commit", repo_id)
        branch = repository.branches[revision or "main"]
        for operation in operations:
            if isinstance(operation, CommitOperationAdd):
                with operation.as_file() as file:
                    branch[operation.path_in_repo] = file.read()
            else:
                del branch[operation.path_in_repo]
        self.messages.append(commit_message)
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

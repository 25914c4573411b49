"""The files of a pod as the kubelet would mount them, so that a role can be started from rendered manifests."""

from pathlib import Path
from typing import Any

Objects = dict[tuple[str, str], dict[str, Any]]
"""Rendered Kubernetes objects by kind and name."""


def mount(objects: Objects, deployment: str, folder: Path) -> list[str]:
    """Write the projected files of a Deployment's first container into a folder; return its command, paths adapted.

    Every mention of the mount's path in the files is replaced by the folder's, and of a directory that may be written.
    """
    pod = objects["Deployment", deployment]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    projected = {volume["name"]: volume["projected"] for volume in pod["volumes"] if "projected" in volume}
    (place,) = [each for each in container["volumeMounts"] if each["name"] in projected]
    own = [each["mountPath"] for each in container["volumeMounts"] if each is not place and each["mountPath"] != "/tmp"]

    def here(text: str) -> str:
        for path in (place["mountPath"], *own):
            text = text.replace(path, str(folder))
        return text

    folder.mkdir(parents=True)
    for source in projected[place["name"]]["sources"]:
        if "configMap" in source:
            found = dict(objects["ConfigMap", source["configMap"]["name"]]["data"])
        else:
            data = objects["Secret", source["secret"]["name"]]["stringData"]
            found = {item["path"]: data[item["key"]] for item in source["secret"]["items"]}
        for name, text in found.items():
            path = folder / name
            path.touch(0o600)
            path.write_text(here(text))
    return [here(word) for word in container["command"]]

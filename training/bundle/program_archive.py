"""Program archive: refuses a model.pt2 that would run code while it is loaded.

Deploy walk: verify.py -> [program_archive.py]
The layout is that of torch.export.save in torch 2.13, which documents none. Imports no torch: a bundle is verified
without it.
"""

import json
import re
import zipfile
from pathlib import Path

from training.errors import BundleError

# Every member of a program without pickles. torch.export.load would unpickle some of the others (example inputs, custom
# objects), and a bundle's checksums prove nothing about its author: an unknown member is refused. So is every program
# of a torch with another layout; save_bundle checks what it wrote, so that this shows at export.
_MEMBERS = re.compile(
    r"^[^/]+/(data/weights/(weight_\d+|[\w.]+_config\.json)|data/constants/(tensor_\d+|[\w.]+_config\.json)"
    r"|models/model\.json|archive_format|archive_version|\.data/version|\.data/serialization_id|byteorder)$"
)
_SAMPLE_INPUTS = "/data/sample_inputs/model.pt"  # empty where a program has no example inputs
_REMEDY = "save it with training.save_bundle"


def refuse_pickles(program: Path) -> None:
    """Check that a torch.export archive holds no pickle.

    Raises:
        BundleError: it is no such archive, or holds a member that may be a pickle.
    """
    try:
        with zipfile.ZipFile(program) as archive:
            members = {member.filename: member for member in archive.infolist()}
            configs = [json.loads(archive.read(name)) for name in members if name.endswith("_config.json")]
    except (zipfile.BadZipFile, ValueError) as error:
        raise BundleError(f"{program.name} is not a torch.export archive ({error}); {_REMEDY}") from error
    if not any(name.endswith("/archive_format") for name in members):
        raise BundleError(f"{program.name} is not a torch.export archive of format pt2; {_REMEDY}")
    for name, member in members.items():
        is_empty_sample = name.endswith(_SAMPLE_INPUTS) and member.file_size == 0
        if not _MEMBERS.match(name) and not is_empty_sample:
            raise BundleError(f"{program.name} holds {name}, which may be a pickle; {_REMEDY}")
    for config in configs:
        for name, payload in config.get("config", {}).items():
            if payload.get("use_pickle") is not False:
                raise BundleError(f"{program.name} holds {name} as a pickle; {_REMEDY}")

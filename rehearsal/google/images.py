"""Boot images that Google publishes, by project and family."""

import re

PUBLIC_IMAGES = {
    "cos-cloud": r"cos-(?:stable|beta|dev|\d+-lts)",
    "debian-cloud": r"debian-\d+",
    "deeplearning-platform-release": r"(?:common|pytorch)-.+",
    "ubuntu-os-accelerator-images": r"ubuntu-accelerator-.+",
    "ubuntu-os-cloud": r"ubuntu-.+",
}
"""Project -> its image families."""


def family_exists(project: str, family: str) -> bool:
    """Whether Google has boot images of that family there."""
    return bool(re.fullmatch(PUBLIC_IMAGES.get(project, r"\Z."), family))

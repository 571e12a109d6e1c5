"""Cloud Storage's rows: buckets, who may use them, and objects that a program declares."""

import base64
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from components import catalogue
from rehearsal.errors import CloudError
from rehearsal.google import buckets
from rehearsal.google.secret_manager import crc32c
from rehearsal.providers.checks import one_of, texts
from rehearsal.providers.iam import iam_member, known_role
from rehearsal.providers.resource import Life, Operation, Reference, ResourceType, plain
from rehearsal.providers.schema import Failure
from rehearsal.store import Body

BUCKET = buckets.BUCKET
MEMBER = "gcp:storage/bucketIAMMember:BucketIAMMember"
OBJECT = "gcp:storage/bucketObject:BucketObject"
CALL = Life("Google call", "Google call", "Google call")
LINK = "https://www.googleapis.com/storage/v1/"

MULTI_REGIONS = ("asia", "eu", "us")


def known_location(operation: Operation, body: Body) -> None:
    """Buckets lie in a region or a multi-region."""
    if body["location"].lower() not in {*catalogue.regions(), *MULTI_REGIONS}:
        raise CloudError(400, "The specified location constraint is not valid.", "invalid")


def not_public(operation: Operation, body: Body) -> None:
    """Where public access is prevented, nobody can let everybody in."""
    bucket = operation.world.store.get(BUCKET, plain(body["bucket"])) or {}
    enforced = bucket.get("publicAccessPrevention") == "enforced"
    if enforced and body["member"] in ("allUsers", "allAuthenticatedUsers"):
        message = (
            "The member bindings allUsers and allAuthenticatedUsers are not allowed since public"
            " access prevention is enforced."
        )
        raise CloudError(412, message, "conditionNotMet")


def content_given(body: Body) -> Iterator[Failure]:
    """An object's bytes come as `content` here."""
    if body.get("source") is not None:
        yield Failure("source", "the rehearsal does not play source: give the object content")
    elif body.get("content") is None:
        yield Failure("", "one of `content,source` must be specified")


def bucket_outputs(operation: Operation, body: Body) -> Body:
    """Addresses and times of a bucket."""
    return {
        "projectNumber": int(operation.world.accounts.projects[body["project"]]),
        "selfLink": f"{LINK}b/{body['name']}",
        "timeCreated": buckets.now(),
        "updated": buckets.now(),
        "url": f"gs://{body['name']}",
    }


def object_outputs(operation: Operation, body: Body) -> Body:
    """Names of an object; what follows from its bytes comes with them."""
    link = f"{LINK}b/{body['bucket']}/o/{quote(body['name'], safe='')}"
    return {"outputName": body["name"], "selfLink": link}


def make_folder(operation: Operation, body: Body) -> None:
    """An empty bucket can be mounted, too."""
    buckets.folder(operation.world, body["name"]).mkdir(parents=True, exist_ok=True)


def write_object(operation: Operation, body: Body) -> None:
    """The content becomes an object's bytes."""
    content = body["content"].encode()
    with tempfile.NamedTemporaryFile(dir=operation.world.directory, delete=False) as file:
        file.write(content)
    row = buckets.put(operation.world, body["bucket"], body["name"], Path(file.name), body)
    md5 = base64.b64decode(row["md5Hash"])
    body |= {
        "contentType": row["contentType"],
        "crc32c": base64.b64encode(crc32c(content).to_bytes(4, "big")).decode(),
        "generation": int(row["generation"]),
        "md5hash": row["md5Hash"],
        "md5hexhash": md5.hex(),
        "mediaLink": f"{body['selfLink']}?generation={row['generation']}&alt=media",
    }


async def delete_bucket(operation: Operation, id: str, body: Body) -> None:
    """The plugin empties a bucket only when told so; who may use it goes with it."""
    world = operation.world
    if buckets.contents(world, id) and not body.get("forceDestroy"):
        raise ValueError(
            f"deleting {operation.urn}: 1 error occurred:\n\t* Error trying to delete bucket {id}"
            " containing objects without `force_destroy` set to true\n\n"
        )
    buckets.remove_all(world, id)
    for token in (MEMBER, OBJECT):
        for dependent, its in world.store.all(token).items():
            if plain(its["bucket"]) == id:
                world.store.delete(token, dependent)
    world.store.delete(BUCKET, id)


async def delete_object(operation: Operation, id: str, body: Body) -> None:
    """The bytes go, too."""
    world = operation.world
    if row := buckets.get(world, body["bucket"], body["name"]):
        buckets.remove(world, row)
    world.store.delete(OBJECT, id)


bucket = Reference(
    (BUCKET,),
    deletion="allowed",  # its own deletion knows what to do
    linked=False,
    missing=(404, "The specified bucket does not exist.", "notFound"),
)

ROWS: tuple[ResourceType, ...] = (
    ResourceType(
        token=BUCKET,
        id="{name}",
        life=CALL,
        autoname=("name", 63),
        defaults={"forceDestroy": False, "storageClass": "STANDARD"},
        outputs={
            "defaultEventBasedHold": False,
            "enableObjectRetention": False,
            "hierarchicalNamespace": {"enabled": False},
            "publicAccessPrevention": "inherited",
            "requesterPays": False,
            "softDeletePolicy": {"retentionDurationSeconds": 604800},
            "uniformBucketLevelAccess": False,
        },
        conflict=(
            "Your previous request to create the named bucket succeeded and you already own it.",
            "conflict",
        ),
        preview=(
            texts("name", "[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]"),
            one_of("publicAccessPrevention", "inherited", "enforced"),
        ),
        service=(known_location,),
        computed=bucket_outputs,
        created=make_folder,
        deleting=delete_bucket,
    ),
    replace(
        iam_member(
            MEMBER,
            "{bucket}/{role}/{member}",
            references={"bucket": replace(bucket, linked="b/{name}")},
        ),
        service=(known_role, not_public),
    ),
    ResourceType(
        token=OBJECT,
        id="{bucket}-{outputName}",
        life=CALL,
        autoname=("name", 1024),
        outputs={"storageClass": "STANDARD"},
        references={"bucket": bucket},
        preview=(content_given,),
        computed=object_outputs,
        created=write_object,
        updated=lambda operation, old, new: write_object(operation, new),
        deleting=delete_object,
    ),
)

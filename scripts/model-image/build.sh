#!/usr/bin/env bash
# Builds an image that has a model in it; what pushes it is the build that this is the only step of.
#
# Cloud Build runs it as it is, in gcr.io/cloud-builders/docker, whose docker (20.10) speaks to
# BuildKit only when told to, and without a source: the Dockerfile comes in the environment.
#
# Environment: IMAGE (name and tag), DOCKERFILE (its text), BUILD_ARGS (names of variables that it
# takes, each in the environment, too) and, for a gated or private model, HF_TOKEN. The token goes
# into the one command that mounts it, and into no layer, argument or log.
set -euo pipefail

: "${IMAGE:?}" "${DOCKERFILE:?}" "${BUILD_ARGS:?}"

options=(--progress=plain "--tag=$IMAGE")
for name in $BUILD_ARGS; do
    options+=("--build-arg=$name")
done
if [[ -n ${HF_TOKEN-} ]]; then
    options+=("--secret=id=hugging-face-token,env=HF_TOKEN")
fi

export DOCKER_BUILDKIT=1
printf '%s\n' "$DOCKERFILE" | docker build "${options[@]}" -

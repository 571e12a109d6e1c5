#!/bin/bash
# Turns a machine into an endpoint: an inference engine and the tunnel that leads to it. Where the
# metadata names no engine, the tunnel alone: it leads to a service elsewhere. Or prepares a disk
# that such machines are to boot from: then it fetches what they need, and starts nothing.
#
# Runs as root at every boot (Google's guest agent starts it) and may be run again at any time: what
# has not changed is left alone. Needs an image with Docker and, for an engine, the NVIDIA driver and
# container toolkit in place (a Deep Learning VM image has them); nothing is installed or compiled.
#
# Values come from instance metadata and are data here: they go into files, and from files into
# arguments, never into a line of shell or a unit file. Secrets come from Secret Manager with the
# machine's own token, into files on tmpfs that only root may read; never into an argument, an
# environment variable or a log.
#
# Metadata it reads:
#   cloudflared-image, tunnel-token-secret, shutdown-timeout (seconds), revision; for an engine
#   engine-image, engine-args (one a line), engine-env (KEY=VALUE a line), engine-port,
#   engine-health-path and optionally engine-script (run in place of the image's entry point),
#   engine-phases (NAME, a tab and a regular expression a line: the words with which the engine says
#   that a phase of its start begins), compile-cache (the folder, in its cache, of what it compiles
#   for itself), compile-cache-bucket (where that outlives the machine), weights-bucket (copied to
#   the disk first) and hugging-face-token-secret; secrets by the full name of a version.
#   To prepare a disk: prepare-disk (anything), cloudflared-image, engine-image and optionally
#   weights-bucket. The phase disk-prepared ends the work.
#
# Every phase ends with one line, times in seconds, START since the epoch:
#   llm-endpoint phase=NAME seconds=N.N status=ok|failed start=N.N
# All phases so far, the ones under way too, are the instance's guest attribute llm-endpoint/phases,
# where enable-guest-attributes lets it be: NAME START SECONDS STATUS a line, with `- running` for
# one that goes on.
# boot is what came before this script, from the kernel's start; engine-start and tunnel-start end
# when systemd has taken the unit over; engine-ready when the engine answers, and only then does
# systemd let cloudflared connect.

set -euo pipefail
umask 077
export LC_ALL=C # one spelling of messages and of EPOCHREALTIME

readonly METADATA=http://metadata.google.internal/computeMetadata/v1
readonly RUN=/run/llm-endpoint # tmpfs: nothing of it is left on the disk or after a reboot
readonly CACHE=/var/lib/llm-endpoint/cache # weights and compiled kernels: worth keeping
readonly WEIGHTS=/var/lib/llm-endpoint/weights # a bucket's content, for engines that want files
readonly PREPARED=/var/lib/llm-endpoint/prepared # what this disk was given before it was a machine's

say() { printf 'llm-endpoint %s\n' "$*"; }
die() {
  printf 'llm-endpoint error: %s\n' "$*" >&2
  exit 1
}

# phase NAME COMMAND...: runs the command in a shell of its own and reports how long it takes.
phase() {
  local name=$1 start=${EPOCHREALTIME/./} code=0
  shift
  report "$name" "$start"
  # In the background, because bash would ignore `set -e` inside a command that is tested with ||.
  "$@" &
  wait $! || code=$?
  report "$name" "$start" "${EPOCHREALTIME/./}" "$( ((code)) && echo failed || echo ok)"
  return "$code"
}

# report NAME START [END STATUS]: a phase that has begun, or ended; times in microseconds.
report() { bash "$RUN/report" "$@"; }

# A file of its own, for the engine's unit reports, too.
prepare_report() {
  mkdir --parents "$RUN/phases"
  cat >"$RUN/report" <<'REPORT'
set -euo pipefail
cd /run/llm-endpoint/phases

seconds() { printf '%d.%d' "$(($1 / 1000000))" "$(($1 / 100000 % 10))"; }

# Sends all phases; whoever comes later sends what others have written meanwhile. One request at a
# time, and a pause: the metadata server takes ten a second, three at once
# (docs.cloud.google.com/compute/docs/metadata/manage-guest-attributes, "Limits").
publish() {
  local all
  flock 9
  all=$(grep --with-filename '' -- * | sed 's/:/ /')
  [[ $all != "$(cat ../phases-sent)" ]] || return 0
  curl --silent --fail --max-time 5 --retry 5 --request PUT --header 'Metadata-Flavor: Google' \
    --data-binary "$all" \
    http://metadata.google.internal/computeMetadata/v1/instance/guest-attributes/llm-endpoint/phases
  printf '%s' "$all" >../phases-sent
  sleep 0.2
}

text="$(seconds "$2") - running"
if (($# == 4)); then
  text="$(seconds "$2") $(seconds "$(($3 - $2))") $4"
  printf 'llm-endpoint phase=%s seconds=%s status=%s start=%s\n' \
    "$1" "$(seconds "$(($3 - $2))")" "$4" "$(seconds "$2")"
fi
printf '%s\n' "$text" >".$1" # not seen by `*`
mv ".$1" "$1"
# Nobody waits for it, and nobody minds where it is not allowed: the lines above are in the log.
publish 9>../phases-lock >/dev/null 2>&1 &
REPORT
}

# A file of its own, too: the engine's unit drops what it did not start with, and keeps what it
# compiled, when this script has long ended. In the bucket it lies under what it was compiled by: the
# image, the engine's arguments and environment, and the GPU with its driver. gzip's checksum tells
# whether all of it arrived.
prepare_compile_cache() {
  cat >"$RUN/compile-cache" <<'CACHE'
set -euo pipefail
cd "${2:-/run/llm-endpoint/llm-endpoint-engine}"
[[ -e compile-cache && -e compile-cache-bucket ]] || exit 0
folder=/var/lib/llm-endpoint/cache/$(<compile-cache) bucket=$(<compile-cache-bucket)
[[ $bucket =~ ^[a-z0-9][a-z0-9._-]*$ ]] || exit 0
name=$({
  cat image env ../gpu
  grep --invert-match --regexp='^--fingerprint-value=' args # which changes with everything
} | sha256sum | cut --characters=1-16).tar.gz
archive=/run/llm-endpoint/compile-cache.tar.gz

# ask METHOD PATH CURL-OPTION...: as the machine itself; prints the HTTP status.
ask() {
  local method=$1 path=$2
  shift 2
  curl --silent --fail --max-time 10 --header 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token |
    sed --quiet 's/.*"access_token" *: *"\([^"]*\)".*/Authorization: Bearer \1/p' |
    curl --silent --request "$method" --header @- --output "$archive.answer" \
      --write-out '%{http_code}' --connect-timeout 5 --max-time 120 "$@" \
      "https://storage.googleapis.com/$path" || true
}

case $1 in
  restore)
    [[ ! -d $folder && $(ask GET "$bucket/$name") == 200 ]] || exit 0
    mkdir --parents "$folder.part"
    if tar --extract --gzip --file="$archive.answer" --directory="$folder.part" 2>/dev/null; then
      mv "$folder.part" "$folder"
    else
      rm --recursive --force "$folder.part"
      ask DELETE "storage/v1/b/$bucket/o/$name" >/dev/null
      echo "llm-endpoint compile cache: gs://$bucket/$name was damaged and is removed"
    fi
    ;;
  keep) # unless another machine was sooner
    [[ -d $folder ]] || exit 0
    tar --create --gzip --file="$archive" --directory="$folder" .
    ask POST "upload/storage/v1/b/$bucket/o?uploadType=media&name=$name&ifGenerationMatch=0" \
      --header 'Content-Type: application/gzip' --data-binary "@$archive" >/dev/null
    ;;
  drop) ask DELETE "storage/v1/b/$bucket/o/$name" >/dev/null ;;
esac
rm --force "$archive" "$archive.answer"
CACHE
}

# What the machine did before this script, once a boot.
report_boot() {
  local now=${EPOCHREALTIME/./} uptime
  [[ ! -e $RUN/phases/boot ]] || return 0
  read -r uptime _ </proc/uptime # in seconds, with two decimals
  report boot "$((now - 10#${uptime/./} * 10000))" "$now" ok
}

# together PID...: waits for all of them; fails when one did.
together() {
  local pid code=0
  for pid; do wait "$pid" || code=1; done
  return "$code"
}

# retry COMMAND...: again for about five minutes, while it returns 75 (EX_TEMPFAIL): a role that was
# granted a moment ago may not have reached every service.
retry() {
  local code=0 pause
  for pause in 2 5 10 20 30 30 30 30 30 30 30 30 0; do
    code=0
    "$@" || code=$?
    ((code == 75 && pause)) || return "$code"
    sleep "$pause"
  done
}

# fetch OUTPUT CURL-OPTION...: prints the HTTP status; the body goes to OUTPUT.
fetch() {
  local output=$1
  shift
  curl --silent --show-error --globoff --output "$output" --write-out '%{http_code}' \
    --connect-timeout 5 --max-time 30 --retry 8 --retry-connrefused "$@"
}

# metadata PATH OUTPUT: the value as it is, byte for byte; returns 1 when there is no such key. A NUL
# byte is refused: bash would leave it out, or cut the value there.
metadata() {
  local status
  status=$(fetch "$2" --header 'Metadata-Flavor: Google' "$METADATA/$1") ||
    die "the metadata server did not answer for $1: is this a Google Compute Engine machine?"
  case $status in
    200)
      [[ $(tr --delete '\0' <"$2" | wc --bytes) == $(wc --bytes <"$2") ]] ||
        die "instance metadata $1 has a NUL byte in it: expected text"
      ;;
    404)
      rm --force "$2"
      return 1
      ;;
    *) die "the metadata server answered $status for $1" ;;
  esac
}

# attribute KEY OUTPUT: an instance attribute that must be there.
attribute() {
  metadata "instance/attributes/$1" "$2" ||
    die "instance metadata has no '$1': it is set by the program that made this machine, run it again"
}

# option KEY OUTPUT: an instance attribute that may be absent or empty; there is no file then.
option() {
  metadata "instance/attributes/$1" "$2" || return 0
  [[ -s $2 ]] || rm --force "$2"
}

# form FILE KEY EXPECTED PATTERN: dies unless all that the file holds is of that form. What is more
# than a text for the engine is checked so before it is used: nothing can then be taken for an option,
# another path, or a second line.
form() {
  local value
  value=$(<"$1")
  [[ ${#value} -le 1000 && $value =~ ^($4)$ ]] ||
    die "instance metadata '$2' is $(shown "$value"): expected $3"
}

# shown VALUE: in one line of printable characters, and not too long for one.
shown() {
  local short=${1:0:100}
  [[ ${#1} -le 100 ]] || short+=...
  if [[ $short =~ ^[\ -~]*$ ]]; then printf "'%s'" "$short"; else printf '%q' "$short"; fi
}

readonly NUMBER='0|[1-9][0-9]{0,4}' # bash would take 08 for octal
readonly PORT='[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]'
readonly IMAGE='[a-z0-9][a-z0-9._:/-]*[a-z0-9](:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?'
readonly SECRET='projects/[a-z0-9.:-]+/secrets/[A-Za-z0-9_-]+/versions/([0-9]+|latest)'

number() { form "$1" "$2" "a whole number" "$NUMBER"; }
image() { form "$1" "$2" "an image's name with a tag or digest" "$IMAGE"; }
secret_version() { form "$1" "$2" "projects/PROJECT/secrets/NAME/versions/NUMBER" "$SECRET"; }

# access_token: the machine's own token, on standard output.
access_token() {
  local file=$RUN/access-token.$BASHPID
  metadata instance/service-accounts/default/token "$file" ||
    die "this machine has no service account: the instance template must name one"
  sed --quiet 's/.*"access_token" *: *"\([^"]*\)".*/\1/p' "$file"
  rm --force "$file"
}

# secret VERSION OUTPUT: the payload of a secret's version.
secret() {
  local status
  # The header goes through a pipe: an argument could be read in the process list.
  status=$(access_token | sed 's/^/Authorization: Bearer /' |
    fetch "$2.json" --header @- "https://secretmanager.googleapis.com/v1/$1:access") ||
    die "Secret Manager did not answer for $1: is Private Google Access on for this subnet?"
  if [[ $status != 200 ]]; then
    printf 'Secret Manager answered %s for %s: %s\n' "$status" "$1" \
      "$(sed --quiet 's/.*"message" *: *"\(.*\)",\{0,1\}$/\1/p' "$2.json")" >&2
    rm --force "$2.json"
    [[ $status == 403 ]] && return 75
    die "the secret could not be read: this machine's service account needs" \
      "roles/secretmanager.secretAccessor on it, and the version must be enabled"
  fi
  sed --quiet 's/.*"data" *: *"\([^"]*\)".*/\1/p' "$2.json" | base64 --decode >"$2" ||
    die "Secret Manager's answer for $1 could not be read"
  rm --force "$2.json"
  chmod 0400 "$2"
}

fetch_secret() {
  retry secret "$@" ||
    die "no access to $1 after five minutes: this machine's service account needs" \
      "roles/secretmanager.secretAccessor on it"
}

# pull IMAGE: from Artifact Registry as the machine itself, from any other registry as anyone.
pull() {
  local host=${1%%/*} log=$DOCKER_CONFIG/log
  if [[ $host == *-docker.pkg.dev ]]; then
    access_token |
      docker login --username oauth2accesstoken --password-stdin "https://$host" >"$log" 2>&1 ||
      pull_failed "$log" || return
  fi
  docker pull --quiet "$1" >"$log" 2>&1 || pull_failed "$log"
}

# pull_failed LOG: shows what docker said; returns 1 when there is no point in trying again, else 75.
pull_failed() {
  cat "$1" >&2
  ! grep --quiet --ignore-case 'not found\|manifest unknown\|name unknown\|invalid reference' "$1" ||
    return 1
  return 75
}

# pull_image NAME IMAGE: what a prepared disk has under NAME is believed only as far as it is right.
pull_image() {
  image_is_there "$@" && return
  # On tmpfs, for `docker login` writes the credential down.
  DOCKER_CONFIG=$(mktemp --directory "$RUN/docker.XXXXXX")
  export DOCKER_CONFIG
  retry pull "$2" || die "the image $2 could not be pulled: it must exist upstream, and this" \
    "machine's service account needs roles/artifactregistry.reader on the repository"
  rm --recursive --force "$DOCKER_CONFIG"
}

# image_is_there NAME IMAGE: whether Docker has the image and, on a prepared disk, the very one that
# was put there. What is wrong with a prepared disk is said once, and then it is one no more.
image_is_there() {
  local id reference='' prepared=''
  id=$(docker image inspect --format '{{.Id}}' "$2" 2>/dev/null) || id=''
  if [[ -e $PREPARED/$1 ]]; then
    read -r reference prepared <"$PREPARED/$1" || true
    [[ -z $id || $reference != "$2" || $prepared != "$id" ]] || return 0
    rm "$PREPARED/$1"
    if [[ $reference != "$2" ]]; then
      say "prepared disk: it has ${reference:-nothing}, not $2, which is pulled now"
    else
      say "prepared disk: $2 is not there as it was put there, and is pulled again"
      [[ -z $id ]] || docker image rm --force "$2" >/dev/null
      id=''
    fi
  fi
  [[ -n $id ]]
}

# bucket BUCKET: the bucket's content below WEIGHTS, copied anew where it is not there, or not of the
# right size. Names are those of an engine's own store (letters, digits, and a few signs), so they can
# stand in a URL.
bucket() {
  local list=$RUN/weights-list page='' name size md5 wrong=()
  access_token | sed 's/^/header = "Authorization: Bearer /; s/$/"/' >"$RUN/weights-access"
  : >"$list"
  while
    [[ $(fetch "$RUN/weights-page" --config "$RUN/weights-access" --get \
      --data 'fields=nextPageToken,items(name,size,md5Hash)' --data-urlencode "pageToken=$page" \
      "https://storage.googleapis.com/storage/v1/b/$1/o") == 200 ]] || return 75
    objects <"$RUN/weights-page" >>"$list"
    page=$(sed --quiet 's/.*"nextPageToken": *"\([^"]*\)".*/\1/p' "$RUN/weights-page")
    [[ -n $page ]]
  do :; done
  : >"$RUN/weights-missing"
  while read -r name size md5; do
    [[ $(stat --format=%s "$WEIGHTS/$name" 2>/dev/null) != "$size" ]] || continue
    wrong+=("$name")
    printf 'url = "https://storage.googleapis.com/%s/%s"\noutput = "%s/%s.part"\n' \
      "$1" "$name" "$WEIGHTS" "$name" >>"$RUN/weights-missing"
  done <"$list"
  if [[ -e $WEIGHTS.complete && ${#wrong[@]} -gt 0 ]]; then
    say "weights: ${#wrong[@]} of $(wc -l <"$list") files on this disk are missing or cut off" \
      "(such as ${wrong[0]}) and are copied again from gs://$1"
    rm "$WEIGHTS.complete"
  fi
  if [[ -s $RUN/weights-missing ]]; then
    curl --silent --show-error --fail --parallel --parallel-max 8 --create-dirs --retry 8 \
      --retry-all-errors --connect-timeout 5 --config "$RUN/weights-access" \
      --config "$RUN/weights-missing" >"$RUN/weights-log" 2>&1 || {
      cat "$RUN/weights-log" >&2
      return 75
    }
  fi
  while read -r name size md5; do
    [[ -e $WEIGHTS/$name.part ]] || continue
    arrived "$WEIGHTS/$name.part" "$size" "$md5" || return 75
    mv "$WEIGHTS/$name.part" "$WEIGHTS/$name"
  done <"$list"
  touch "$WEIGHTS.complete"
}

# objects: NAME SIZE MD5 a line, of a page of the bucket's list; `-` where there is no hash.
objects() {
  local line name='' size='' md5=-
  while read -r line; do
    if [[ $line =~ \"name\":\ *\"([A-Za-z0-9][A-Za-z0-9._/-]*)\" ]]; then
      name=${BASH_REMATCH[1]}
    elif [[ $line =~ \"size\":\ *\"([0-9]+)\" ]]; then
      size=${BASH_REMATCH[1]}
    elif [[ $line =~ \"md5Hash\":\ *\"([A-Za-z0-9+/=]+)\" ]]; then
      md5=${BASH_REMATCH[1]}
    elif [[ $line == *'}'* ]]; then
      [[ -z $name || -z $size || $name == *..* ]] || printf '%s %s %s\n' "$name" "$size" "$md5"
      name='' size='' md5=-
    fi
  done
}

# arrived FILE SIZE MD5: whether a file is what the bucket has; if not, it is removed. Hashes are
# looked at where no GPU waits for it: Google's disks and network check what they carry themselves.
arrived() {
  local bytes hash
  bytes=$(stat --format=%s "$1")
  if [[ $bytes != "$2" ]]; then
    echo "${1%.part} has $bytes bytes of $2" >&2
  elif [[ -e $RUN/prepare-disk && $3 != - ]] &&
    hash=$(md5sum "$1" | cut --delimiter=' ' --fields=1) &&
    [[ $hash != "$(base64 --decode <<<"$3" | od --address-radix=n --format=x1 | tr --delete ' \n')" ]]; then
    echo "${1%.part} has another MD5 hash than the bucket says" >&2
  else
    return 0
  fi
  rm --force "$1"
  return 1
}

weights() {
  if [[ $(cat "$WEIGHTS.bucket" 2>/dev/null) != "$1" ]]; then # of another model
    rm --recursive --force "$WEIGHTS" "$WEIGHTS.complete"
    mkdir --parents "$WEIGHTS"
    printf '%s' "$1" >"$WEIGHTS.bucket"
  fi
  retry bucket "$1" || die "the weights could not be copied from gs://$1: this machine's service" \
    "account needs roles/storage.objectViewer on it"
  rm --force "$RUN"/weights-*
}

# Waits for the driver, which a first boot may still be loading.
gpu() {
  local attempt
  for attempt in {1..25}; do
    if nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader \
      >"$RUN/gpu" 2>&1; then
      while read -r line; do say "gpu: $line"; done <"$RUN/gpu"
      return 0
    fi
    ((attempt < 25)) && sleep 5
  done
  die "nvidia-smi says: $(<"$RUN/gpu"). The driver must be in the image: set bootImage to one that" \
    "has it (and check that the machine type has a GPU)"
}

# service UNIT: takes what was prepared in UNIT.new into use; restarts only what has changed.
service() {
  local unit=$1
  if diff --recursive --brief "$RUN/$unit.new" "$RUN/$unit" >/dev/null 2>&1; then
    rm --recursive --force "$RUN/$unit.new"
    systemctl start --no-block "$unit.service"
    return
  fi
  rm --recursive --force "${RUN:?}/$unit"
  mv "$RUN/$unit.new" "$RUN/$unit"
  # /run, not /etc: after a reboot a unit is there again only when this script has prepared it.
  install --mode=0644 "$RUN/$unit/unit" "/run/systemd/system/$unit.service"
  systemctl daemon-reload
  systemctl restart --no-block "$unit.service" # either start ends when the engine is ready
}

# prepare_*: what a unit needs, in a folder of its own. The heredocs are quoted: nothing of the
# metadata is ever text in them. When the machine is told to stop (the notice of a Spot machine
# included) systemd ends cloudflared, which lets the requests in flight finish, then the engine, and
# Docker only after them.

prepare_engine() {
  local new=$RUN/llm-endpoint-engine.new
  attribute engine-image "$new/image"
  attribute engine-args "$new/args"
  option engine-script "$new/script"
  option weights-bucket "$new/weights-bucket"
  option engine-phases "$new/phases"
  option compile-cache "$new/compile-cache"
  option compile-cache-bucket "$new/compile-cache-bucket"
  [[ ! -e $new/compile-cache || $(<"$new/compile-cache") =~ ^[a-z][a-z_/]*$ ]] ||
    die "instance metadata 'compile-cache' is '$(<"$new/compile-cache")': expected a folder's name"
  attribute engine-env "$new/env"
  attribute engine-port "$new/port"
  attribute engine-health-path "$new/health-path"
  attribute shutdown-timeout "$new/shutdown-timeout"
  image "$new/image" engine-image
  form "$new/port" engine-port "a whole number, 1 to 65535" "$PORT"
  form "$new/health-path" engine-health-path "a path, such as /health" \
    '/|(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+'
  number "$new/shutdown-timeout" shutdown-timeout
  [[ ! -e $new/weights-bucket ]] || form "$new/weights-bucket" weights-bucket \
    "a bucket's name" '[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]'
  # Names become file names, and stand in a line of what the machine reports.
  [[ ! -e $new/phases ]] || ! grep --invert-match --quiet $'^[a-z][a-z0-9-]\\{0,40\\}\t.' "$new/phases" ||
    die "instance metadata 'engine-phases' has a line that is not NAME, a tab, and an expression"
  cat >"$new/unit" <<'UNIT'
[Unit]
Description=Inference engine of the LLM endpoint
After=docker.service network-online.target
Wants=network-online.target
Requires=docker.service
StartLimitIntervalSec=0

[Service]
ExecStartPre=-/bin/bash -c 'exec docker rm --force llm-endpoint-engine 2>/dev/null'
ExecStart=/bin/bash /run/llm-endpoint/llm-endpoint-engine/start
ExecStartPost=/bin/bash /run/llm-endpoint/llm-endpoint-engine/wait-until-ready
ExecStop=/bin/bash /run/llm-endpoint/llm-endpoint-engine/stop
# Loading a model may take most of an hour; docker's own time limit ends a stop.
TimeoutStartSec=infinity
TimeoutStopSec=infinity
Restart=always
RestartSec=5
RestartSteps=5
RestartMaxDelaySec=300
SyslogIdentifier=llm-endpoint-engine
StandardOutput=journal+console
StandardError=journal+console
UNIT
  cat >"$new/start" <<'START'
set -euo pipefail
cd /run/llm-endpoint/llm-endpoint-engine
mapfile -t arguments <args
options=()
# What was compiled at an earlier start saves a minute, unless it is damaged: then the engine dies of
# it, each time anew. So it is kept only from start to start that succeeds (wait-until-ready).
if [[ -e compile-cache ]]; then
  cache=/var/lib/llm-endpoint/cache
  if [[ -e $cache/starting && -d $cache/$(<compile-cache) ]]; then
    rm --recursive "${cache:?}/$(<compile-cache)"
    bash /run/llm-endpoint/compile-cache drop
    echo "llm-endpoint compile cache: removed, as the engine did not start with it; it compiles anew"
  fi
  touch "$cache/starting"
fi
if [[ -e hugging-face-token ]]; then
  options+=(--volume "$PWD/hugging-face-token:/run/secrets/hugging-face-token:ro")
fi
if [[ -e weights-bucket ]]; then
  options+=(--volume /var/lib/llm-endpoint/weights:/weights:ro)
fi
if [[ -e script ]]; then
  options+=(--volume "$PWD/script:/run/engine-script:ro" --entrypoint /bin/bash)
  arguments=(/run/engine-script "${arguments[@]}")
fi
# --ipc=host: PyTorch shares tensors between processes, Docker's 64 MB are not enough for that.
# --network=host: Google's health checks reach the engine, and cloudflared does by loopback.
# --log-driver=none: the journal has the output; a copy would only fill the disk.
exec docker run --rm --name=llm-endpoint-engine --pull=never --gpus=all --ipc=host --network=host \
  --security-opt=no-new-privileges --log-driver=none --env-file=env \
  --volume=/var/lib/llm-endpoint/cache:/root/.cache "${options[@]}" "$(<image)" "${arguments[@]}"
START
  cat >"$new/wait-until-ready" <<'READY'
set -euo pipefail
cd /run/llm-endpoint/llm-endpoint-engine
report() { bash /run/llm-endpoint/report "$@"; }

# Of what the engine goes through, by its own words: a phase lasts until the next one begins.
phase=engine-init start=${EPOCHREALTIME/./} names=() words=() seen=0
while IFS=$'\t' read -r name pattern; do
  names+=("$name") words+=("$pattern")
done < <(cat phases 2>/dev/null)
for name in engine-ready "${names[@]}"; do rm --force "/run/llm-endpoint/phases/$name"; done
report "$phase" "$start"

# enter NAME TIME: ends the phase and begins another one.
enter() {
  report "$phase" "$start" "$2" ok
  phase=$1 start=$2
  report "$phase" "$start"
}

# hear TIME LINE: whether the line is the beginning of a later phase.
hear() {
  local row
  for ((row = seen; row < ${#words[@]}; row++)); do
    if [[ $2 =~ ${words[row]} ]]; then
      enter "${names[row]}" "$1"
      seen=$((row + 1))
    fi
  done
}

# The journal of this start alone, and on: TIME HOST WHO: LINE
exec 3< <(exec journalctl --follow --lines=all --output=short-unix \
  "_SYSTEMD_INVOCATION_ID=$INVOCATION_ID")
journal=$!
trap 'kill "$journal" 2>/dev/null || true' EXIT

until curl --silent --fail --output /dev/null --max-time 5 \
  "http://127.0.0.1:$(<port)$(<health-path)"; do
  if ! kill -0 "$MAINPID" 2>/dev/null; then # systemd would wait for this script for ever
    report "$phase" "$start" "${EPOCHREALTIME/./}" failed
    exit 1
  fi
  for ((lines = 0; lines < 1000; lines++)); do
    read -r -t 0.05 at _ _ line <&3 || break
    [[ $at =~ ^[0-9]+\.[0-9]+$ ]] || continue # not a line of the engine's
    hear "${at/./}" "$line"
  done
  sleep 0.2
done
[[ $phase == engine-ready ]] || enter engine-ready "${EPOCHREALTIME/./}"
report engine-ready "$start" "${EPOCHREALTIME/./}" ok
rm --force /var/lib/llm-endpoint/cache/starting
# Nobody waits for it, and a failure costs the next machine a minute.
bash /run/llm-endpoint/compile-cache keep >/dev/null 2>&1 &
READY
  cat >"$new/stop" <<'STOP'
set -euo pipefail
cd /run/llm-endpoint/llm-endpoint-engine
# Longer than the engine takes to finish the requests in flight, or docker would kill it over them.
exec docker stop -t "$(($(<shutdown-timeout) + 5))" llm-endpoint-engine
STOP
}

prepare_tunnel() {
  local new=$RUN/cloudflared.new
  attribute cloudflared-image "$new/image"
  attribute shutdown-timeout "$new/shutdown-timeout"
  image "$new/image" cloudflared-image
  number "$new/shutdown-timeout" shutdown-timeout
  [[ ! -e $RUN/engine-image ]] || : >"$new/before-engine"
  cat >"$new/unit" <<'UNIT'
[Unit]
Description=Cloudflare Tunnel of the LLM endpoint
# Stopped before the engine, which takes no request any more from the moment it is told to stop.
After=llm-endpoint-engine.service docker.service network-online.target
Wants=network-online.target
Requires=docker.service
StartLimitIntervalSec=0

[Service]
ExecStartPre=-/bin/bash -c 'exec docker rm --force cloudflared 2>/dev/null'
ExecStartPre=/bin/bash /run/llm-endpoint/cloudflared/wait-until-useful
ExecStart=/bin/bash /run/llm-endpoint/cloudflared/start
ExecStop=/bin/bash /run/llm-endpoint/cloudflared/stop
# As long as the engine takes to load; a stop ends the wait.
TimeoutStartSec=infinity
TimeoutStopSec=infinity
Restart=always
RestartSec=5
RestartSteps=5
RestartMaxDelaySec=60
SyslogIdentifier=cloudflared
StandardOutput=journal+console
StandardError=journal+console
UNIT
  # Cloudflare uses any machine that is connected: one with an engine connects only when that answers.
  cat >"$new/wait-until-useful" <<'WAIT'
set -euo pipefail
[[ -e /run/llm-endpoint/cloudflared/before-engine ]] || exit 0
engine=/run/llm-endpoint/llm-endpoint-engine # not there before the engine's image is
until [[ -d $engine ]] && curl --silent --fail --output /dev/null --max-time 5 \
  "http://127.0.0.1:$(<"$engine/port")$(<"$engine/health-path")"; do
  sleep 0.2
done
WAIT
  cat >"$new/start" <<'START'
set -euo pipefail
cd /run/llm-endpoint/cloudflared
grace=$(<shutdown-timeout)
((grace <= 180)) || grace=180 # cloudflared takes no more than three minutes
# What it says there is for this machine alone, unless Google's health checks ask for it.
address=127.0.0.1
[[ -e before-engine ]] || address=0.0.0.0
# --user=0:0: the image's own user (65532) could not read a file that only root may read. Root
# without a single capability, on a read-only file system, can do no more than that user.
exec docker run --rm --name=cloudflared --pull=never --network=host \
  --user=0:0 --cap-drop=ALL --read-only --security-opt=no-new-privileges --log-driver=none \
  --volume="$PWD/token:/run/secrets/tunnel-token:ro" "$(<image)" \
  tunnel --metrics="$address:20241" --grace-period="${grace}s" run \
  --token-file=/run/secrets/tunnel-token
START
  cat >"$new/stop" <<'STOP'
set -euo pipefail
cd /run/llm-endpoint/cloudflared
exec docker stop -t "$(($(<shutdown-timeout) + 5))" cloudflared
STOP
}

# Container-Optimized OS drops what nobody has opened; Google's firewall admits its health checks only.
open_metrics() {
  local rule=(INPUT --protocol tcp --dport 20241 --jump ACCEPT)
  grep --quiet '^ID=cos$' /etc/os-release || return 0
  iptables --wait --check "${rule[@]}" 2>/dev/null || iptables --wait --append "${rule[@]}"
}

# need COMMAND...: dies unless the image has them.
need() {
  local command
  for command; do
    command -v "$command" >/dev/null || die "this image has no '$command': set bootImage to one with" \
      "the NVIDIA driver, Docker and the NVIDIA container toolkit, such as a Deep Learning VM image"
  done
}

prepare() {
  need curl base64 sed diff tr wc docker systemctl
  mkdir --parents "$RUN"
  option prepare-disk "$RUN/prepare-disk"
  option engine-image "$RUN/engine-image"
  if [[ -e $RUN/prepare-disk ]]; then
    : # on a machine without a GPU
  elif [[ -e $RUN/engine-image ]]; then
    need nvidia-smi
    command -v nvidia-ctk nvidia-container-runtime-hook >/dev/null ||
      die "this image has no NVIDIA container toolkit: set bootImage to one that has it"
  else
    open_metrics
  fi
  systemctl start docker.service || die "Docker does not start: see journalctl --unit=docker"
  rm --recursive --force "$RUN"/*.new "$RUN"/docker.*
  if [[ -e $RUN/prepare-disk ]]; then
    attribute engine-image "$RUN/engine-image"
    attribute cloudflared-image "$RUN/cloudflared-image"
    option weights-bucket "$RUN/weights-bucket"
    return
  fi
  mkdir --parents "$RUN"/{llm-endpoint-engine,cloudflared}.new /run/systemd/system "$CACHE"
  attribute revision "$RUN/revision"
  form "$RUN/revision" revision "letters, digits, dots and hyphens" '[A-Za-z0-9][A-Za-z0-9._-]*'
  say "revision=$(<"$RUN/revision")"
  [[ ! -e $RUN/engine-image ]] || prepare_engine
  prepare_tunnel
  attribute tunnel-token-secret "$RUN/tunnel-token-secret"
  secret_version "$RUN/tunnel-token-secret" tunnel-token-secret
  option hugging-face-token-secret "$RUN/hugging-face-token-secret"
  [[ ! -e $RUN/hugging-face-token-secret ]] ||
    secret_version "$RUN/hugging-face-token-secret" hugging-face-token-secret
}

tunnel() {
  local new=$RUN/cloudflared.new token image
  phase tunnel-token fetch_secret "$(<"$RUN/tunnel-token-secret")" "$new/token" &
  token=$!
  phase tunnel-image pull_image tunnel-image "$(<"$new/image")" &
  image=$!
  together "$token" "$image"
  phase tunnel-start service cloudflared
}

# What was compiled before is known by the GPU, among others.
gpu_and_compile_cache() {
  local new=$RUN/llm-endpoint-engine.new
  phase gpu gpu
  [[ ! -e $new/compile-cache-bucket ]] ||
    phase compile-cache bash "$RUN/compile-cache" restore "$new" || true # it is compiled anew
}

engine() {
  local new=$RUN/llm-endpoint-engine.new jobs=()
  gpu_and_compile_cache &
  jobs+=($!)
  phase engine-image pull_image engine-image "$(<"$new/image")" &
  jobs+=($!)
  if [[ -e $RUN/hugging-face-token-secret ]]; then
    phase hugging-face-token fetch_secret "$(<"$RUN/hugging-face-token-secret")" \
      "$new/hugging-face-token" &
    jobs+=($!)
  fi
  if [[ -e $new/weights-bucket ]]; then
    phase weights weights "$(<"$new/weights-bucket")" &
    jobs+=($!)
  fi
  together "${jobs[@]}"
  phase engine-start service llm-endpoint-engine
}

# disk: all that a machine of the stack would fetch when it boots, onto a disk that is to be theirs.
disk() {
  local jobs=()
  rm --recursive --force "$PREPARED"
  phase tunnel-image pull_image tunnel-image "$(<"$RUN/cloudflared-image")" &
  jobs+=($!)
  phase engine-image pull_image engine-image "$(<"$RUN/engine-image")" &
  jobs+=($!)
  if [[ -e $RUN/weights-bucket ]]; then
    phase weights weights "$(<"$RUN/weights-bucket")" &
    jobs+=($!)
  fi
  together "${jobs[@]}"
  phase disk-prepared seal
}

# What lies there, in the words in which a machine will ask for it; and all of it on the disk.
seal() {
  mkdir --parents "$PREPARED"
  : >/etc/machine-id # each machine that boots from it makes its own
  note tunnel-image "$(<"$RUN/cloudflared-image")"
  note engine-image "$(<"$RUN/engine-image")"
  sync
}

note() {
  local id
  id=$(docker image inspect --format '{{.Id}}' "$2")
  printf '%s %s\n' "$2" "$id" >"$PREPARED/$1"
}

# Images of earlier versions: each takes tens of gigabytes.
prune() {
  local image
  for image in "$RUN"/{llm-endpoint-engine,cloudflared}/image; do
    [[ ! -e $image ]] || docker image inspect --format '{{.Id}}' "$(<"$image")"
  done >"$RUN/images"
  docker image ls --all --quiet --no-trunc | sort --unique |
    { grep --invert-match --fixed-strings --line-regexp --file="$RUN/images" || true; } |
    xargs --no-run-if-empty docker image rm --force
}

main() {
  local pids=() outcome=0
  prepare_report
  prepare_compile_cache
  report_boot
  phase prepare prepare
  if [[ -e $RUN/prepare-disk ]]; then
    disk & # in the background, as in phase()
    wait $! || die "what failed is named above"
    say "prepared: this machine may go, its disk stays"
    return
  fi
  tunnel &
  pids+=($!)
  if [[ -e $RUN/engine-image ]]; then
    engine &
    pids+=($!)
  fi
  together "${pids[@]}" || outcome=1
  rm --recursive --force "$RUN"/docker.* # where a failed pull has left its credential
  ((outcome)) && die "what failed is named above; everything else goes on"
  phase prune prune || true # old images harm nobody but the disk
  say "started: follow it with journalctl --follow --unit=llm-endpoint-engine --unit=cloudflared"
}

# What was wrong may pass (a permission, a registry, a full disk), and nobody should have to restart
# the machine for that. In the background, as in phase().
while :; do
  main "$@" &
  if wait $!; then break; fi
  say "again in a minute"
  sleep 60
done

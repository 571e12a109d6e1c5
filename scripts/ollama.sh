#!/bin/bash
# Serves one model with Ollama: ollama.sh MODEL ALIAS...
#
# Runs as it is in the image ollama/ollama, in place of its entry point, as the container's process.
# The image is a bare Ubuntu with Ollama in it: it has bash and coreutils, neither curl nor Python, so
# bash itself speaks HTTP to the server that it starts.
#
# Staged weights at /weights (manifests/ and blobs/, as Ollama keeps them; they may be read-only) are
# served from there. Without any, MODEL is pulled into OLLAMA_MODELS, unless it is there already: a
# machine that restarts serves what it served before, whatever the tag means by now.
#
# MODEL gets each ALIAS, in that order, only when it has been loaded into the GPU: /v1/models/ALIAS
# tells whether it can answer, while Ollama knows MODEL itself as soon as it has the files.
#
# Environment: OLLAMA_HOST (ADDRESS:PORT), OLLAMA_MODELS, and what else Ollama shall know.
#
# Ends with a line `llm-endpoint error: ...` when the model cannot be had or does not reach the GPU;
# whoever started the container starts it again. SIGTERM lets the requests in flight finish, for as
# long as whoever sent it waits.

set -euo pipefail
export LC_ALL=C

readonly WEIGHTS=/weights
readonly REPORT_S=15 # between two lines about the same download

say() { printf 'llm-endpoint %s\n' "$*"; }
die() {
  printf 'llm-endpoint error: %s\n' "$*" >&2
  exit 1
}

# call METHOD PATH [JSON]: the server's whole answer, as it comes. HTTP/1.0: nothing is chunked, and
# the answer ends where the connection does.
call() {
  local body=${3-}
  {
    printf '%s %s HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n' "$1" "$2" >&3
    printf 'Content-Length: %d\r\n\r\n%s' "${#body}" "$body" >&3
    cat <&3
  } 2>/dev/null 3<>"/dev/tcp/127.0.0.1/${OLLAMA_HOST##*:}"
}

# ask METHOD PATH [JSON]: the answer's body; returns 1 unless its status is 200.
ask() {
  local answer
  answer=$(call "$@") || return
  printf '%s\n' "${answer#*$'\r\n\r\n'}"
  [[ $answer == 'HTTP/1.'?' 200 '* ]]
}

named() { printf '{"model":"%s"}' "$MODEL"; }

# pull: one attempt, with some lines about how far it is. Returns 1 with the reason in `problem`.
pull() {
  local line status shown='' due=0 total completed
  problem='the connection to Ollama broke off'
  while IFS= read -r line; do
    if [[ $line =~ ^\{\"error\":\"(.*)\"\} ]]; then
      problem=${BASH_REMATCH[1]}
      return 1
    fi
    [[ $line =~ ^\{\"status\":\"([^\"]*)\" ]] || continue
    status=${BASH_REMATCH[1]}
    [[ $status != success ]] || return 0
    [[ $status != "$shown" ]] || ((SECONDS >= due)) || continue
    shown=$status due=$((SECONDS + REPORT_S)) completed=0
    [[ ! $line =~ \"completed\":([0-9]+) ]] || completed=${BASH_REMATCH[1]}
    if [[ $line =~ \"total\":([0-9]+) ]]; then
      total=${BASH_REMATCH[1]}
      status+=": $((completed * 100 / total)) % of $(((total + 999999) / 1000000)) MB"
    fi
    say "pull: $status"
  done < <(call POST /api/pull "$(named)")
  return 1
}

# fetch: pulls for some minutes. Ollama keeps what has arrived, so each attempt goes on from there.
fetch() {
  local pause problem
  for pause in 5 10 20 40 60 60 60 60 60 0; do
    pull && return
    case $problem in
      *'manifest: 408'* | *'manifest: 429'*) ;; # the registry wants a pause
      *'file does not exist'*)
        die "there is no model $MODEL: names and tags are at https://ollama.com/library;" \
          "set llm-endpoint:model"
        ;;
      *'no space left'*) die "$MODEL does not fit the disk: set llm-endpoint:bootDiskGb" ;;
      *'manifest: 4'* | *unauthorized* | *'realm host'* | *'invalid model'*)
        die "$MODEL cannot be pulled: $problem"
        ;;
    esac
    say "pull: $problem; trying again in $pause s"
    sleep "$pause"
  done
  die "$MODEL cannot be pulled, and that again and again: $problem"
}

# load: into memory, where it stays. A model that only embeds is not asked to generate.
load() {
  local answer
  answer=$(ask POST /api/generate "$(named)") && return
  if [[ $answer == *'does not support generate'* ]]; then
    answer=$(ask POST /api/embed "$(named)") && return
  fi
  die "Ollama cannot load $MODEL: $answer"
}

# on_gpu: dies when the model runs on the CPU, as it does without a word where Ollama finds no GPU
# that it can use. A model that is too large for the GPU runs on both, slowly, and may.
on_gpu() {
  local loaded size vram
  loaded=$(ask GET /api/ps) || die "Ollama does not tell what it has loaded: $loaded"
  [[ $loaded =~ \"size\":([0-9]+) ]] || die "Ollama has not kept $MODEL in memory: $loaded"
  size=${BASH_REMATCH[1]}
  [[ $loaded =~ \"size_vram\":([0-9]+) ]] || die "Ollama does not tell where $MODEL is: $loaded"
  vram=${BASH_REMATCH[1]}
  ((vram > 0)) || die "Ollama found no GPU that it can use and loaded $MODEL into the CPU's memory:" \
    "see its line 'inference compute' above. It wants an NVIDIA driver R550 or newer (before" \
    "Ollama 0.30 R531)"
  ((vram >= size)) || say "warning: $(((size - vram) * 100 / size)) % of $MODEL and its cache are in" \
    "the CPU's memory, which makes it many times slower: take a larger GPU, a smaller model, or set" \
    "llm-endpoint:maxModelLen lower"
}

prepare() {
  local alias answer
  until ask GET /api/version >/dev/null; do sleep 0.2; done
  if ! ask POST /api/show "$(named)" >/dev/null; then
    [[ ! -d $WEIGHTS/manifests ]] || die "the weights at $WEIGHTS are not those of $MODEL"
    fetch
  fi
  say "loading $MODEL"
  load
  on_gpu
  for alias in "${ALIASES[@]}"; do
    answer=$(ask POST /api/copy "{\"source\":\"$MODEL\",\"destination\":\"$alias\"}") ||
      die "Ollama does not give $MODEL the name $alias: $answer"
  done
  say "$MODEL can answer"
}

# drain: returns when nothing is being answered any more. Told to end, Ollama cuts all connections
# (server/routes.go, Serve). Told to unload the model, it does so after the last request for it.
# shellcheck disable=SC2329 # by the trap, as `end` is
drain() {
  ask POST /api/generate "{\"model\":\"$MODEL\",\"keep_alive\":0}" >/dev/null || return 0
  while [[ $(ask GET /api/ps) == *'"name"'* ]]; do sleep 1; done
}

# shellcheck disable=SC2329
end() {
  trap '' TERM INT
  say 'told to end'
  if [[ $prepared ]]; then
    drain
  fi
  kill "$server" 2>/dev/null || true
  wait "$server" || true
  exit 0
}

(($# >= 2)) || die "usage: $0 MODEL ALIAS..."
for name; do
  [[ $name =~ ^[A-Za-z0-9_][A-Za-z0-9_.:/-]*$ ]] || die "$name is no name that Ollama takes"
done
readonly MODEL=$1 ALIASES=("${@:2}")

if [[ -d $WEIGHTS/manifests ]]; then
  # A store of our own around the staged files, for aliases are written into it.
  OLLAMA_MODELS=$(mktemp --directory)
  export OLLAMA_MODELS
  cp --recursive --no-preserve=mode "$WEIGHTS/manifests" "$OLLAMA_MODELS/manifests"
  ln --symbolic "$WEIGHTS/blobs" "$OLLAMA_MODELS/blobs"
fi
# What an earlier run of this container has loaded is not loaded now.
for name in "${ALIASES[@]}"; do
  rm --recursive --force "$OLLAMA_MODELS/manifests/registry.ollama.ai/library/$name"
done

prepared=
# Its access log (who, what path; no contents) without the health checks, which would drown it.
ollama serve > >(grep --line-buffered --invert-match --extended-regexp \
  "GET +\"(/api/ps|/v1/models/${ALIASES[-1]})\"") &
server=$!
trap end TERM INT
prepare &
preparation=$!

code=0
wait -n "$server" "$preparation" || code=$?
if ((code == 0)); then
  prepared=yes
  wait "$server" || code=$?
  printf 'llm-endpoint error: Ollama has ended by itself\n' >&2
fi
kill "$server" "$preparation" 2>/dev/null || true
wait "$server" || true
exit "$((code ? code : 1))"

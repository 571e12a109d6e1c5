#!/bin/bash
# In place of `main` in scripts/startup.sh: the same phases in the order of the tutorials, each when
# the one before it is over. DRIVER_S, seconds that a driver's installation takes, comes first; none
# where the image has it. Images come from the region's registry here, too: no published figure tells
# it and Docker Hub apart.

# shellcheck disable=SC2154 # RUN and DRIVER_S are set before it
main() {
  local engine=$RUN/llm-endpoint-engine.new tunnel=$RUN/cloudflared.new
  prepare_report
  report_boot
  phase prepare prepare
  ((DRIVER_S == 0)) || phase driver sleep "$DRIVER_S"
  phase gpu gpu
  phase engine-image pull_image engine-image "$(<"$engine/image")"
  if [[ -e $RUN/hugging-face-token-secret ]]; then
    phase hugging-face-token fetch_secret "$(<"$RUN/hugging-face-token-secret")" \
      "$engine/hugging-face-token"
  fi
  phase engine-start service llm-endpoint-engine
  engine=$RUN/llm-endpoint-engine
  until curl --silent --fail --output /dev/null --max-time 5 \
    "http://127.0.0.1:$(<"$engine/port")$(<"$engine/health-path")"; do
    sleep 1
  done
  phase tunnel-token fetch_secret "$(<"$RUN/tunnel-token-secret")" "$tunnel/token"
  phase tunnel-image pull_image tunnel-image "$(<"$tunnel/image")"
  phase tunnel-start service cloudflared
}

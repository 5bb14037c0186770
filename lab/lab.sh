#!/usr/bin/env bash
# The lab: a Docker engine where there is none, and hosts in containers that boot systemd, so that units, packages and a
# nested Docker engine are real.
#
#   lab.sh engine                      install and start a Docker engine if none answers
#   lab.sh image-source                print `registry` if one answers within seconds, else `build`; keeps its choice
#   lab.sh up NAME [PUBLISH…]          create and boot a host, of the image LAB_IMAGE (lab_host); PUBLISH as in `docker run --publish`
#   lab.sh down NAME…                  remove hosts with their volumes
#   lab.sh clean                       remove every lab host, the images built here, and the engine if `engine` started it
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
state=$root/build/lab
label=org.tf2x.lab

say() { printf 'lab: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

engine_answers() { docker info >"$state/docker-info.txt" 2>&1; }

install_engine() {
  command -v dockerd >/dev/null && return
  [ "$(id -u)" = 0 ] || die "no Docker engine answers and none is installed; installing one needs root"
  command -v apt-get >/dev/null || die "no Docker engine answers; install one (found no apt-get to do it with)"
  say "installing the distribution's Docker engine"
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io >&2
}

start_engine() {
  if [ -d /run/systemd/system ]; then
    systemctl start docker
    return
  fi
  # Packets larger than the machine's own link would be lost without a word.
  local link mtu
  link=$(ip route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | sed -n 1p)
  mtu=$(cat "/sys/class/net/${link:-lo}/mtu")
  # After a machine stopped short, the file may name a process that is something else by now.
  local old=/var/run/docker.pid
  if [ -f "$old" ] && [ "$(cat "/proc/$(cat "$old")/comm" 2>/dev/null)" != dockerd ]; then rm -f "$old"; fi
  say "starting dockerd"
  setsid dockerd --mtu "$((mtu > 1500 ? 1500 : mtu))" >"$state/dockerd.log" 2>&1 </dev/null &
  echo $! >"$state/dockerd.pid"
}

engine() {
  mkdir -p "$state"
  if ! engine_answers; then
    install_engine
    start_engine
    for _ in $(seq 180); do engine_answers && break; sleep 1; done
    engine_answers || die "the Docker engine does not answer after 180 s; see $state/dockerd.log"
  fi
  # Images are made with the one, hosts are reached with the other.
  if ! type -P debootstrap ssh >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing debootstrap and openssh-client"
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends debootstrap openssh-client >&2
  fi
}

image_source() {
  mkdir -p "$state"
  if [ ! -s "$state/image-source" ]; then
    if timeout 6 docker manifest inspect haproxy:3.0 >/dev/null 2>&1; then echo registry; else echo build; fi \
      >"$state/image-source"
  fi
  cat "$state/image-source"
}

up() {
  local name=$1 image started
  shift
  if [ "$(docker container inspect --format '{{.State.Running}}' "$name" 2>/dev/null)" = true ]; then
    return
  fi
  image=$(python3 "$root/files/images/build.py" --no-archive "${LAB_IMAGE:-lab_host}" |
    python3 -c 'import json, sys; print(next(iter(json.load(sys.stdin)["images"].values()))["ref"])')
  say "booting host $name"
  local flags=(--detach --name "$name" --hostname "$name" --label "$label=host"
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined
    --device-cgroup-rule 'a *:* rwm' --tmpfs /run --tmpfs /run/lock --env container=docker
    --volume "$name-docker:/var/lib/docker"
    # The archives that build.py makes: a copy on every host would be a gigabyte each.
    --volume "$root/build/images:/mnt/images:ro"
    # SYS_RESOURCE is not always in the machine's bounding set, SYS_MODULE is nobody's business: so not --privileged.
    --cap-add ALL --cap-drop SYS_RESOURCE --cap-drop SYS_MODULE)
  if [ "$(docker info --format '{{.CgroupVersion}}')" = 1 ]; then
    flags+=(--cgroupns=host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw)
  else
    flags+=(--cgroupns=private)
  fi
  local port
  for port in "$@"; do flags+=(--publish "$port"); done
  docker rm --force --volumes "$name" >/dev/null 2>&1 || true
  mkdir -p "$root/build/images"
  docker volume create --label "$label=volume" "$name-docker" >/dev/null
  docker run "${flags[@]}" "$image" >/dev/null
  # Seconds, but for a machine that boots several at once beside other work.
  for _ in $(seq 300); do
    started=$(docker exec "$name" systemctl is-system-running 2>/dev/null || true)
    case $started in running | degraded) break ;; esac
    sleep 0.5
  done
  [ "$started" = running ] ||
    die "host $name: systemd is '$started', not 'running': $(docker exec "$name" systemctl --failed --plain --no-legend)"
}

down() {
  local name
  for name in "$@"; do
    docker rm --force "$name" >/dev/null 2>&1 || true
    docker volume rm --force "$name-docker" >/dev/null 2>&1 || true
  done
}

clean() {
  if docker info >/dev/null 2>&1; then
    mapfile -t hosts < <(docker ps --all --filter "label=$label" --format '{{.Names}}')
    down "${hosts[@]}"
    mapfile -t images < <(docker image ls --filter 'reference=tf2x/*' --format '{{.Repository}}:{{.Tag}}')
    [ "${#images[@]}" = 0 ] || docker image rm --force "${images[@]}" >/dev/null
    docker image prune --force --filter label=org.tf2x.build-stage >/dev/null
  fi
  if [ -f "$state/dockerd.pid" ]; then
    local pid
    pid=$(cat "$state/dockerd.pid")
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
      say "stopping the dockerd that was started here"
      kill "$pid"
      for _ in $(seq 30); do [ -d "/proc/$pid" ] || break; sleep 1; done
    fi
    rm -f "$state/dockerd.pid"
  fi
}

case ${1:-} in
  engine | clean) "$1" ;;
  image-source) image_source ;;
  up | down) [ $# -ge 2 ] || die "$1 needs the name of a host"; mkdir -p "$state"; "$@" ;;
  *) die "usage: lab.sh engine | image-source | up NAME [PUBLISH…] | down NAME… | clean" ;;
esac

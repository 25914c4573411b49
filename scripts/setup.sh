#!/usr/bin/env bash
# Installs what is missing and nothing else: uv (into .uv unless it is on PATH), the locked Python packages (into
# .venv), and Debian packages when root. Usage: scripts/setup.sh run|test|bench|e2e
set -euo pipefail
cd "$(dirname "$0")/.."
need=${1:-run}

# command -> Debian package; the second list is wanted only by the tests, the third only by the benchmarks
run_tools="ip:iproute2 nft:nftables ping:iputils-ping nsenter:util-linux curl:curl"
test_tools="turnserver:coturn tcpdump:tcpdump iperf3:iperf3 setpriv:util-linux conntrack:conntrack sshd:openssh-server
  ssh-keygen:openssh-client systemd-analyze:systemd systemd-nspawn:systemd-container dbus-daemon:dbus cloud-init:cloud-init
  sudo:sudo"
bench_tools="nebula:nebula"
e2e_tools="mmdebstrap:mmdebstrap ssh:openssh-client"

missing_packages() {
  local pair missing=""
  for pair in $1; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
  done
  echo "$missing" | tr ' ' '\n' | sort -u | xargs
}

install_packages() {
  local packages=$1
  [ -n "$packages" ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "setup: missing programs; install the equivalents of these Debian packages: $packages" >&2
  elif [ "$(id -u)" != 0 ]; then
    echo "setup: missing Debian packages: $packages" >&2
    echo "setup: run: sudo apt-get install $packages   (going on without them: the lab may fall to a lower rung)" >&2
  else
    echo "setup: installing Debian packages: $packages"
    case " $packages " in
      # The tests start their own coturn and sshd; the packages must not start any on this machine.
      *" coturn "* | *" openssh-server "*)
        if [ -d /run/systemd/system ]; then
          for unit in coturn.service ssh.service ssh.socket; do
            systemctl list-unit-files --quiet "$unit" >/dev/null 2>&1 || systemctl mask --quiet "$unit"
          done
        fi ;;
    esac
    case " $packages " in
      # Wanted for its schema and for machines of the tests; it must not take this machine for one at its first boot.
      *" cloud-init "*) mkdir -p /etc/cloud && touch /etc/cloud/cloud-init.disabled ;;
    esac
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
  fi
}

extras="--extra deploy"
install_packages "$(missing_packages "$run_tools")"
if [ "$need" != run ]; then
  install_packages "$(missing_packages "$test_tools")"
  [ "$need" != e2e ] || install_packages "$(missing_packages "$e2e_tools")"
  [ "$need" != bench ] || install_packages "$(missing_packages "$bench_tools")"
  # The programs of the clouds are previewed in the tests.
  extras="--all-extras"
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  if [ ! -x .uv/bin/uv ]; then
    echo "setup: installing uv into .uv"
    if ! python3 -m venv .uv 2>/dev/null; then
      install_packages python3-venv
      rm -rf .uv && python3 -m venv .uv
    fi
    .uv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
  fi
  uv=.uv/bin/uv
fi
# Only the lock file decides; no interpreter is downloaded. `run` installs no cloud SDK: the lab needs none.
# shellcheck disable=SC2086 # one or two words
if ! "$uv" sync --locked $extras --inexact --quiet --no-progress; then
  echo "setup: uv sync failed. It needs Python 3.11 to 3.13 (uv python list) and the package registry." >&2
  exit 1
fi
# Bytecode of the project itself: every command and role is a short-lived or a forked Python process.
.venv/bin/python -m compileall -q -j 0 ztna infra components stacks

#!/usr/bin/env bash
# Install sshd for the tests where that is possible: as root, with apt-get. Never fails its caller;
# tests that need sshd are skipped without it. The other servers are Python packages ('.[dev]').
set -u
PATH="$PATH:/usr/sbin:/usr/local/sbin"
export DEBIAN_FRONTEND=noninteractive

if command -v sshd >/dev/null; then
    exit 0
elif [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "sshd is missing, and only root can install it with apt-get: tests over ssh are skipped"
    exit 0
fi
install() { apt-get install -y -qq --no-install-recommends openssh-server >/dev/null 2>&1 </dev/null; }
if install || { apt-get update -qq >/dev/null 2>&1 </dev/null && install; }; then
    echo "installed openssh-server: tests need its sshd"
else
    echo "sshd is missing, and apt-get could not install openssh-server: tests over ssh are skipped"
fi
exit 0

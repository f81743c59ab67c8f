#!/usr/bin/env bash
# Installs the programs that the tests start beside taskd, where that can be done without asking: on Debian, as root.
# Nothing happens if all are there. No service is started, and PostgreSQL makes no cluster.
set -euo pipefail

# Without one of these, tests fail.
needed=()
compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null || command -v initdb > /dev/null || needed+=(postgresql)
for each in pgbouncer haproxy; do
    PATH="$PATH:/usr/sbin" command -v "$each" > /dev/null || needed+=("$each")
done

# Without one of these, the tests with it are skipped.
optional=()
for each in chromium:chromium curl:curl php:php-cli redis-server:redis-server; do
    command -v "${each%:*}" > /dev/null || optional+=("${each#*:}")
done
compgen -G '/usr/lib/php/*/pdo_pgsql.so' > /dev/null || optional+=(php-pgsql)

[ ${#needed[@]} -gt 0 ] || [ ${#optional[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || exit 0

export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
fi

install() {
    timeout 180 apt-get -qq -o DPkg::Lock::Timeout=60 install --yes --no-install-recommends "$@" > /dev/null 2>&1
}

timeout 60 apt-get -qq update > /dev/null 2>&1 || true
# Apart from each other: the lack of one must not keep away the others.
if [ ${#needed[@]} -gt 0 ]; then
    install "${needed[@]}" || echo "${needed[*]} could not be installed: tests that need them fail"
fi
if [ ${#optional[@]} -gt 0 ]; then
    install "${optional[@]}" || echo "${optional[*]} could not be installed: the tests with them are skipped"
fi

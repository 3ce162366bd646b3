#!/bin/sh
# The fleet's gateway: nginx with the sites of /etc/nginx/sites-available, and a page that says it is up.
set -eu
export DEBIAN_FRONTEND=noninteractive

if ! command -v nginx > /dev/null 2>&1; then
    apt-get update -qq
    # The directory of sites is shared by the node: files that are there already stay.
    apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold nginx
fi
mkdir -p /logs/nginx /etc/nginx/sites-enabled
cat > /etc/nginx/conf.d/phoenix-health.conf <<'CONF'
server {
    listen 127.0.0.1:8089;
    access_log off;
    location = /healthz { default_type text/plain; return 200 "ok\n"; }
}
CONF
for site in /etc/nginx/sites-available/*; do
    [ -f "$site" ] || continue
    ln -sfn "$site" "/etc/nginx/sites-enabled/${site##*/}"
done
nginx -t
systemctl enable --quiet nginx.service
systemctl reload-or-restart nginx.service
curl -sS --fail --retry 10 --retry-delay 1 --retry-all-errors http://127.0.0.1:8089/healthz

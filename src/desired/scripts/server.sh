[ -x @PROGRAM@ ] || die "@PROGRAM@ is not there: install the feature @NAME@"
[ -z "${@CACHE_PATH@:-}" ] || mkdir -p -- "$@CACHE_PATH@"
mkdir -p /etc/phoenix
put @NAME@-pause /etc/phoenix/@NAME@-pause 0644
changed= # a server that runs needs no restart for that
put @NAME@.env /etc/phoenix/@NAME@.env 0600
put @NAME@.service /etc/systemd/system/@NAME@.service 0644
rm -f "$from/@NAME@.env"
systemctl daemon-reload
systemctl enable --quiet @NAME@.service
if [ -n "$changed" ]; then
  systemctl restart @NAME@.service
else
  # Not waited for: it may be within a pause of minutes.
  systemctl start --no-block @NAME@.service
fi
echo "@NAME@: @NAME@.service is started"

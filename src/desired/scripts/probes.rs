//! Probes as commands that run in any guest, with whatever tool it has.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::crd::{HttpGetAction, HttpScheme, Probe, TcpSocketAction};

const HOST: &str = "127.0.0.1";

/// Characters that may not stand in the target of a request.
const TARGET: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'`');

/// Arguments: URL, seconds, host, port, target, scheme. The proxy of the environment is for the way out, not for the
/// guest itself. Redirects are not followed: they are an answer.
const HTTP: &str = r#"
url=$1 seconds=$2 host=$3 port=$4 target=$5 scheme=$6
code= line=
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
have() { command -v "$1" > /dev/null 2>&1; }
limit() { if have timeout; then timeout "$seconds" "$@"; else "$@"; fi; }
if have curl; then
  code=$(curl -gsk -o /dev/null -w '%{http_code}' --max-time "$seconds" "$url")
elif have wget; then
  gnu=
  if wget --version 2>&1 | grep -q 'GNU Wget'; then gnu='--tries=1 --max-redirect=0'; fi
  line=$(limit wget $gnu -q -S -O /dev/null -T "$seconds" --no-check-certificate "$url" 2>&1 | grep -m 1 'HTTP/[0-9]')
elif have python3; then
  line=$(limit python3 -c '
import http.client, ssl, sys
url, seconds, host, port, target, scheme = sys.argv[1:]
if scheme == "https":
    c = http.client.HTTPSConnection(host, int(port), timeout=float(seconds), context=ssl._create_unverified_context())
else:
    c = http.client.HTTPConnection(host, int(port), timeout=float(seconds))
c.request("GET", target)
print("HTTP/1.1", c.getresponse().status)
' "$@" 2>&1 | tail -n 1)
elif have bash && [ "$scheme" = http ]; then
  line=$(limit bash -c '
exec 3<> "/dev/tcp/$1/$2" || exit 1
printf "GET %s HTTP/1.0\r\nHost: %s:%s\r\nConnection: close\r\n\r\n" "$3" "$1" "$2" >&3
IFS= read -r line <&3 && printf "%s\n" "$line"
' bash "$host" "$port" "$target" 2>&1)
else
  echo "this guest has none of curl, wget, python3 and bash to probe $url with"
  exit 2
fi
if [ -z "$code" ]; then
  case $line in
    *HTTP/[0-9]*)
      code=${line#*HTTP/[0-9]}
      code=${code#.[0-9]}
      code=${code# }
      code=${code%%[!0-9]*}
      ;;
  esac
fi
case $code in
  [23][0-9][0-9]) exit 0 ;;
  '' | 000) echo "no answer from $url within $seconds s" ;;
  *) echo "$url answered $code" ;;
esac
exit 1
"#;

/// Arguments: host, port, seconds.
const TCP: &str = r#"
host=$1 port=$2 seconds=$3
have() { command -v "$1" > /dev/null 2>&1; }
limit() { if have timeout; then timeout "$seconds" "$@"; else "$@"; fi; }
if have bash; then
  limit bash -c 'exec 3<> "/dev/tcp/$1/$2"' bash "$host" "$port" 2> /dev/null && exit 0
elif have python3; then
  limit python3 -c '
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close()
' "$@" 2> /dev/null && exit 0
elif have nc; then
  limit nc -z -w "$seconds" "$host" "$port" < /dev/null > /dev/null 2>&1 && exit 0
else
  echo "this guest has none of bash, python3 and nc to probe $host:$port with"
  exit 2
fi
echo "no connection to $host:$port within $seconds s"
exit 1
"#;

/// Program and arguments that carry out a probe inside a guest: exit code 0 is success. A probe's host, path and port
/// are arguments of the shell, never part of its text. A probe without an action (which the CRD refuses) fails.
pub fn probe_command(probe: &Probe) -> Vec<String> {
    let seconds = probe.timeout_seconds.unwrap_or(1).to_string();
    if let Some(exec) = &probe.exec {
        return exec.command.clone();
    }
    if let Some(action) = &probe.http_get {
        return http(action, seconds);
    }
    if let Some(TcpSocketAction { port, host }) = &probe.tcp_socket {
        let host = host.clone().unwrap_or_else(|| HOST.into());
        return shell(TCP, [host, port.to_string(), seconds]);
    }
    vec!["/bin/false".into()]
}

fn http(action: &HttpGetAction, seconds: String) -> Vec<String> {
    let scheme = match action.scheme.unwrap_or_default() {
        HttpScheme::Http => "http",
        HttpScheme::Https => "https",
    };
    let host = action.host.clone().unwrap_or_else(|| HOST.into());
    let path = action.path.as_deref().unwrap_or_default();
    let target = format!("/{}", path.strip_prefix('/').unwrap_or(path));
    let target = utf8_percent_encode(&target, TARGET).to_string();
    let port = action.port.to_string();
    let url = match host.contains(':') {
        true => format!("{scheme}://[{host}]:{port}{target}"),
        false => format!("{scheme}://{host}:{port}{target}"),
    };
    shell(HTTP, [url, seconds, host, port, target, scheme.into()])
}

fn shell<const N: usize>(script: &str, arguments: [String; N]) -> Vec<String> {
    let mut command: Vec<String> = ["/bin/sh", "-c", script.trim_start(), "phoenix-probe"]
        .map(String::from)
        .into();
    command.extend(arguments);
    command
}

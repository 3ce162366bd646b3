//! The client against a small HTTPS server: what becomes of calls.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum_server::tls_rustls::RustlsConfig;
use serde_json::{Value, json};

use crate::pve::call::Auth;
use crate::pve::{GuestRef, GuestType, Vmid};

use super::tls::Fingerprint;
use super::{ApiCall, ApiToken, Came, Client, ConnectOptions, Error, Login, Meter, Tls};

/// One request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    body: String,
    authorization: Option<String>,
    cookie: Option<String>,
    csrf: Option<String>,
}

type Answer = Arc<dyn Fn(&Seen) -> Response<Body> + Send + Sync>;

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Answer,
}

struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    fingerprint: Fingerprint,
    ca: String,
    handle: axum_server::Handle<SocketAddr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

impl Server {
    async fn start(answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let (ca, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let config = RustlsConfig::from_pem(ca.clone().into(), key.into()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = Shared {
            seen: seen.clone(),
            answer: Arc::new(answer),
        };
        let app = Router::new().fallback(serve).with_state(shared);
        let handle = axum_server::Handle::new();
        let server = axum_server::from_tcp_rustls(listener, config)
            .unwrap()
            .handle(handle.clone());
        tokio::spawn(server.serve(app.into_make_service()));
        Self {
            address,
            seen,
            fingerprint: Fingerprint::of(made.cert.der()),
            ca,
            handle,
        }
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new([format!("https://{}", self.address)]);
        options.tls = Tls::Fingerprint(self.fingerprint);
        options.token = Some(ApiToken {
            id: "phoenix@pve!op".into(),
            secret: "s3cret".into(),
        });
        options.ticket = Some(Login {
            username: "root@pam".into(),
            password: "hunter22".into(),
        });
        options
    }

    fn client(&self) -> Client {
        Client::new(self.options()).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|s| s.line.clone()).collect()
    }
}

async fn serve(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let seen = Seen {
        line: format!("{} {}", head.method, head.uri),
        authorization: header("authorization"),
        cookie: header("cookie"),
        csrf: header("CSRFPreventionToken"),
        body: String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap(),
    };
    shared.seen.lock().unwrap().push(seen.clone());
    if seen.line.contains("/hang") {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    // Dropping the connection without an answer.
    assert!(!seen.line.contains("/drop"), "on purpose");
    (shared.answer)(&seen)
}

fn reply(status: u16, body: Value) -> Response<Body> {
    let builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
    builder
        .body(Body::from(if body.is_null() {
            String::new()
        } else {
            body.to_string()
        }))
        .unwrap()
}

fn reason(status: u16, text: &'static str) -> Response<Body> {
    let mut response = reply(status, Value::Null);
    response
        .extensions_mut()
        .insert(hyper::ext::ReasonPhrase::from_static(text.as_bytes()));
    response
}

fn ok(data: Value) -> Response<Body> {
    reply(200, json!({ "data": data }))
}

/// An address where nobody listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn calls_are_encoded_as_proxmox_reads_them() {
    let server = Server::start(|_| ok(json!("done"))).await;
    let client = server.client();
    let put = ApiCall::put("/nodes/pve1/lxc/100/config")
        .param("net0", "name=eth0,ip=dhcp")
        .param("description", "a b&c\n");
    assert_eq!(client.call(&put).await.unwrap(), json!("done"));
    client
        .call(&ApiCall::delete("/nodes/pve1/lxc/100").param("purge", 1))
        .await
        .unwrap();
    client
        .call(&ApiCall::post("/nodes/pve1/lxc/100/status/start"))
        .await
        .unwrap();
    let seen = server.seen.lock().unwrap().clone();
    assert_eq!(seen[0].body, "net0=name%3Deth0%2Cip%3Ddhcp&description=a+b%26c%0A");
    assert_eq!(
        seen[0].authorization.as_deref(),
        Some("PVEAPIToken=phoenix@pve!op=s3cret")
    );
    assert_eq!(seen[0].cookie, None);
    assert_eq!(
        (seen[1].line.as_str(), seen[1].body.as_str()),
        ("DELETE /api2/json/nodes/pve1/lxc/100?purge=1", "")
    );
    assert_eq!(seen[2].body, "");
}

#[tokio::test]
async fn errors_keep_proxmoxs_words() {
    let server = Server::start(|seen| match seen.line.rsplit('/').next().unwrap() {
        "reason" => reason(403, "Permission check failed (/vms/100, VM.Audit)"),
        "body" => reply(500, json!({"data": null, "message": "CT is locked (disk)\n"})),
        "away" => reason(595, "No route to host"),
        "proxy" => reason(596, "Broken pipe"),
        _ => reply(200, json!([1])),
    })
    .await;
    let client = server.client();
    let denied = client.call(&ApiCall::get("/reason")).await.unwrap_err();
    assert_eq!(
        denied,
        Error::Forbidden {
            message: "Permission check failed (/vms/100, VM.Audit)".into()
        }
    );
    let unknown = Error::Unknown {
        status: Some(500),
        message: "CT is locked (disk)".into(),
    };
    assert_eq!(client.call(&ApiCall::post("/body")).await.unwrap_err(), unknown);
    let away = client.call(&ApiCall::post("/away")).await.unwrap_err();
    assert!(
        matches!(&away, Error::NotSent { message } if message.contains("595 No route to host")),
        "{away}"
    );
    let proxy = client.call(&ApiCall::put("/proxy")).await.unwrap_err();
    assert_eq!(
        proxy,
        Error::Unknown {
            status: Some(596),
            message: "Broken pipe".into()
        }
    );
    assert!(matches!(
        client.call(&ApiCall::get("/list")).await.unwrap_err(),
        Error::Decode { .. }
    ));
}

#[tokio::test]
async fn a_lost_answer_to_a_write_is_unknown_and_never_sent_again() {
    let server = Server::start(|_| ok(Value::Null)).await;
    let mut options = server.options();
    options.endpoints = vec![options.endpoints[0].clone(); 2];
    let client = Client::new(options).unwrap();
    let error = client.call(&ApiCall::post("/drop")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { status: None, .. }), "{error}");
    assert_eq!(server.lines(), ["POST /api2/json/drop"]);
    let error = client.call(&ApiCall::get("/drop")).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error}");
    assert_eq!(server.lines().len(), 3, "a read is tried at every endpoint");
}

#[tokio::test]
async fn a_write_without_an_answer_in_time_is_unknown() {
    let server = Server::start(|_| ok(Value::Null)).await;
    let mut options = server.options();
    options.timeouts.write = Duration::from_millis(200);
    let error = Client::new(options)
        .unwrap()
        .call(&ApiCall::post("/hang"))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::Unknown {
            status: None,
            message: "no answer in time".into()
        }
    );
}

/// What a meter was told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Meter for Told {
    fn request(&self, call: &ApiCall, came: Came, _: Duration) {
        let line = format!("{} {} {}", call.method.as_str(), call.route(), came.code());
        self.0.lock().unwrap().push(line);
    }

    fn certificate(&self, host: &str, ends: i64) {
        self.0
            .lock()
            .unwrap()
            .push(format!("certificate of {host} ends at {ends}"));
    }
}

#[tokio::test]
async fn each_request_and_certificate_is_told_once() {
    let server = Server::start(|seen| match seen.line.ends_with("/config") {
        true => reason(403, "no"),
        false => ok(json!({})),
    })
    .await;
    let told = Arc::new(Told::default());
    let mut options = server.options();
    options.endpoints.insert(0, closed());
    options.timeouts.write = Duration::from_millis(200);
    options.meter = Some(told.clone());
    let client = Client::new(options.clone()).unwrap();
    client.call(&ApiCall::get("/version")).await.unwrap();
    // The first endpoint rests.
    client
        .call(&ApiCall::get("/nodes/pve1/lxc/100/config"))
        .await
        .unwrap_err();
    client.call(&ApiCall::post("/nodes/pve1/hang")).await.unwrap_err();
    client.call(&ApiCall::post("/nodes/pve1/drop")).await.unwrap_err();
    options.tls = Tls::Fingerprint(Fingerprint::of(b"another"));
    let other = Client::new(options).unwrap();
    other.call(&ApiCall::get("/version")).await.unwrap_err();
    let told = told.0.lock().unwrap();
    let (certificates, requests): (Vec<&String>, Vec<&String>) =
        told.iter().partition(|l| l.starts_with("certificate"));
    assert_eq!(
        requests,
        [
            "GET /version unreachable",
            "GET /version 200",
            "GET /nodes/{node}/lxc/{vmid}/config 403",
            "POST /nodes/{node}/hang timeout",
            "POST /nodes/{node}/drop lost",
            "GET /version unreachable",
            "GET /version certificate",
        ]
    );
    // rcgen's certificates end in the year 4096.
    assert!(
        !certificates.is_empty()
            && certificates
                .iter()
                .all(|l| *l == "certificate of 127.0.0.1 ends at 67090118400"),
        "{certificates:?}"
    );
}

#[tokio::test]
async fn a_hung_node_leaves_room_for_the_others() {
    let server = Server::start(|_| ok(json!({"version": "9.1.4"}))).await;
    let mut options = server.options();
    (options.max_concurrent, options.max_concurrent_per_node) = (3, 2);
    options.timeouts.queue = Duration::from_millis(300);
    let client = Client::new(options).unwrap();
    let hung: Vec<_> = (0..6)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(&ApiCall::get("/nodes/sick/hang")).await })
        })
        .collect();
    let mut turned_away = 0;
    for task in hung.into_iter().skip(2) {
        // The first two hold the node's places; the rest give up without having been sent.
        turned_away += usize::from(matches!(task.await.unwrap(), Err(Error::NotSent { .. })));
        client.call(&ApiCall::get("/nodes/well/version")).await.unwrap();
    }
    assert_eq!(turned_away, 4);
}

#[tokio::test]
async fn a_write_moves_on_only_if_it_was_not_sent() {
    let server = Server::start(|_| ok(Value::Null)).await;
    let mut options = server.options();
    options.endpoints.insert(0, closed());
    let client = Client::new(options).unwrap();
    client.call(&ApiCall::post("/first")).await.unwrap();
    client.call(&ApiCall::post("/second")).await.unwrap();
    assert_eq!(server.lines(), ["POST /api2/json/first", "POST /api2/json/second"]);
}

#[tokio::test]
async fn when_nothing_answers_the_call_was_not_sent_and_each_endpoint_says_why() {
    let (one, two) = (closed(), closed());
    let mut options = ConnectOptions::new([one.clone(), two.clone()]);
    options.tls = Tls::InsecureSkipVerify;
    options.token = Some(ApiToken {
        id: "a@pve!b".into(),
        secret: "c".into(),
    });
    let client = Client::new(options).unwrap();
    let first = client.call(&ApiCall::post("/x")).await.unwrap_err();
    let Error::NotSent { message } = &first else {
        panic!("{first}")
    };
    for endpoint in [&one, &two] {
        assert!(message.contains(endpoint.trim_start_matches("https://")), "{message}");
    }
    // While they rest nothing is tried, and what is told stays the same.
    assert_eq!(client.call(&ApiCall::post("/x")).await.unwrap_err(), first);
}

#[tokio::test]
async fn the_pinned_certificate_and_the_ca_are_enforced() {
    let server = Server::start(|_| ok(json!({"version": "9.1.4"}))).await;
    let mut options = server.options();
    options.tls = Tls::Ca(server.ca.clone());
    Client::new(options.clone()).unwrap().version().await.unwrap();

    let wanted = Fingerprint::of(b"another certificate");
    options.tls = Tls::Fingerprint(wanted);
    let client = Client::new(options.clone()).unwrap();
    for _ in 0..2 {
        let error = client.version().await.unwrap_err();
        let Error::Certificate { expected, actual, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(expected.as_deref(), Some(wanted.to_string().as_str()));
        assert_eq!(actual.as_deref(), Some(server.fingerprint.to_string().as_str()));
    }

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .unwrap()
        .cert
        .pem();
    options.tls = Tls::Ca(other);
    let error = Client::new(options).unwrap().version().await.unwrap_err();
    assert!(error.to_string().contains(&server.fingerprint.to_string()), "{error}");
    assert!(server.lines().len() == 1, "nothing but the first call was sent");
}

/// Answers logins with numbered tickets; other calls only with the newest `valid`.
async fn ticket_server(valid: Arc<Mutex<u32>>) -> Server {
    let issued = Mutex::new(0);
    Server::start(move |seen| {
        if seen.line.ends_with("/access/ticket") {
            let mut number = issued.lock().unwrap();
            *number += 1;
            if seen.body.contains("password=wrong") {
                return reply(401, json!({"data": null, "message": "authentication failure\n"}));
            }
            return ok(
                json!({"ticket": format!("PVE:root@pam:{number}"), "CSRFPreventionToken": format!("csrf{number}")}),
            );
        }
        let cookie = seen.cookie.clone().unwrap_or_default();
        let number: u32 = cookie.rsplit("%3A").next().unwrap().parse().unwrap_or(0);
        if number < *valid.lock().unwrap() {
            reason(401, "No ticket")
        } else {
            ok(json!(number))
        }
    })
    .await
}

#[tokio::test]
async fn a_ticket_is_fetched_once_signed_and_replaced_when_refused() {
    let valid = Arc::new(Mutex::new(1));
    let server = ticket_server(valid.clone()).await;
    let client = server.client();
    let call = ApiCall::put("/nodes/pve1/lxc/100/config")
        .param("dev0", "/dev/nvidia0")
        .as_root();
    assert_eq!(call.auth, Auth::Ticket);
    let both = tokio::join!(client.call(&call), client.call(&call));
    assert_eq!((both.0.unwrap(), both.1.unwrap()), (json!(1), json!(1)));
    let seen = server.seen.lock().unwrap().clone();
    assert_eq!(
        seen.iter().filter(|s| s.line.ends_with("/access/ticket")).count(),
        1,
        "one login for both"
    );
    let put = seen.last().unwrap();
    assert_eq!(
        (put.cookie.as_deref(), put.csrf.as_deref()),
        (Some("PVEAuthCookie=PVE%3Aroot%40pam%3A1"), Some("csrf1"))
    );
    assert_eq!(put.authorization, None);

    *valid.lock().unwrap() = 2;
    assert_eq!(client.call(&call).await.unwrap(), json!(2));
    *valid.lock().unwrap() = 99;
    assert!(matches!(
        client.call(&call).await.unwrap_err(),
        Error::Unauthorized { .. }
    ));
    let logins = server.lines().iter().filter(|l| l.ends_with("/access/ticket")).count();
    assert_eq!(logins, 3, "a refused ticket is replaced once a call");
}

#[tokio::test]
async fn an_old_ticket_is_renewed_with_itself() {
    let server = ticket_server(Arc::new(Mutex::new(1))).await;
    let mut options = server.options();
    options.timeouts.ticket_lifetime = Duration::ZERO;
    let client = Client::new(options).unwrap();
    let call = ApiCall::get("/version").as_root();
    assert_eq!(client.call(&call).await.unwrap(), json!(1));
    assert_eq!(client.call(&call).await.unwrap(), json!(2));
    let seen = server.seen.lock().unwrap();
    let logins: Vec<&str> = seen
        .iter()
        .filter(|s| s.line.ends_with("ticket"))
        .map(|s| s.body.as_str())
        .collect();
    assert!(logins[0].contains("password=hunter22"), "{logins:?}");
    assert!(logins[1].contains("password=PVE%3Aroot%40pam%3A1"), "{logins:?}");
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_told_apart_and_never_shown() {
    let server = ticket_server(Arc::new(Mutex::new(1))).await;
    let mut options = server.options();
    options.ticket = Some(Login {
        username: "root@pam".into(),
        password: "wrong-s3cret".into(),
    });
    let shown = format!("{options:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    let call = ApiCall::get("/version").as_root();
    let client = Client::new(options.clone()).unwrap();
    let error = client.call(&call).await.unwrap_err();
    assert_eq!(
        error,
        Error::Unauthorized {
            message: "authentication failure".into()
        }
    );
    options.ticket = None;
    let client = Client::new(options).unwrap();
    assert_eq!(
        client.call(&call).await.unwrap_err(),
        Error::NoCredential("root@pam password")
    );
}

#[tokio::test]
async fn reads_know_absence_from_trouble() {
    let server = Server::start(|seen| {
        let line = seen.line.as_str();
        match () {
            () if line.contains("vmid=100") => reply(
                400,
                json!({"data": null, "message": "Parameter verification failed.\n",
                    "errors": {"vmid": "VM 100 already exists"}}),
            ),
            () if line.contains("nextid") => ok(json!("101")),
            () if line.contains("/lxc/100/config") => reply(
                500,
                json!({"data": null, "message": "Configuration file 'nodes/pve1/lxc/100.conf' does not exist\n"}),
            ),
            () if line.contains("interfaces") => ok(Value::Null),
            () => reply(
                400,
                json!({"data": null, "message": "Parameter verification failed.\n", "errors": {"upid": "no such task"}}),
            ),
        }
    })
    .await;
    let client = server.client();
    assert!(!client.vmid_is_free(Vmid::nearest(100)).await.unwrap());
    assert!(client.vmid_is_free(Vmid::nearest(101)).await.unwrap());
    assert!(matches!(
        client
            .guest_config(&GuestRef::new(GuestType::Lxc, Vmid::nearest(100), "pve1"), false)
            .await
            .unwrap_err(),
        Error::NotFound { .. }
    ));
    assert_eq!(
        client
            .lxc_interfaces(&GuestRef::new(GuestType::Lxc, Vmid::nearest(101), "pve1"))
            .await
            .unwrap(),
        []
    );
    let upid = "UPID:pve1:0001:0002:68C0FFEE:vzstart:100:root@pam:".parse().unwrap();
    assert_eq!(client.task(&upid).await.unwrap(), super::task::TaskState::Forgotten);
    assert_eq!(
        server.lines().last().unwrap(),
        "GET /api2/json/nodes/pve1/tasks/UPID%3Apve1%3A0001%3A0002%3A68C0FFEE%3Avzstart%3A100%3Aroot%40pam%3A/status"
    );
}

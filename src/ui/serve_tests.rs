//! The page over HTTP, with a fleet that the test changes.

use std::sync::RwLock;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::ui::view::testing::{large, small};

/// A fleet in memory.
pub(in crate::ui) struct World {
    pub(in crate::ui) seen: RwLock<Seen>,
    pub(in crate::ui) live: Live,
}

impl Ui for World {
    fn seen(&self) -> Seen {
        self.seen.read().unwrap().clone()
    }

    fn live(&self) -> &Live {
        &self.live
    }
}

/// A server of a fleet.
pub(in crate::ui) async fn served(seen: Seen) -> (Arc<World>, SocketAddr) {
    let world = Arc::new(World {
        seen: RwLock::new(seen),
        live: Live::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, world.clone()));
    (world, address)
}

async fn ask(address: SocketAddr, method: &str, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[tokio::test]
async fn the_page_is_only_read_and_takes_nothing_from_elsewhere() {
    let (_, address) = served(small()).await;
    for path in ["/", "/fragment", "/style.css", "/page.js", "/icon.svg"] {
        let (status, answer) = ask(address, "GET", path, "localhost:1").await;
        assert_eq!(status, 200, "{path}");
        for header in [
            "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.contains(header), "{path}: {header}");
        }
        let (status, answer) = ask(address, "HEAD", path, "localhost:1").await;
        assert!(status == 200 && answer.ends_with("\r\n\r\n"), "{path}: {answer}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let (status, answer) = ask(address, method, path, "localhost:1").await;
            assert_eq!(status, 405, "{method} {path}");
            assert!(answer.contains("content-security-policy"), "{answer}");
        }
    }
    assert_eq!(ask(address, "POST", "/events", "localhost").await.0, 405);
    assert_eq!(ask(address, "GET", "/../etc/passwd", "localhost").await.0, 404);
}

/// Nothing inline, so that the policy holds; nothing of another origin; and paths that work behind a prefix.
#[tokio::test]
async fn the_page_names_only_files_beside_it() {
    let (_, address) = served(small()).await;
    let (_, page) = ask(address, "GET", "/", "localhost").await;
    for inline in [
        "style=", "onclick", "<style", "src=\"/", "src=\"h", "href=\"/", "href=\"h",
    ] {
        assert!(!page.contains(inline), "{inline}");
    }
    for file in ["src=\"page.js\"", "href=\"style.css\"", "href=\"icon.svg\""] {
        assert!(page.contains(file), "{file}");
    }
}

/// A page of somebody else's whose name was made to lead to loopback would read the answers.
#[tokio::test]
async fn on_loopback_only_names_of_loopback_are_answered() {
    let (_, address) = served(small()).await;
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:8081", 200),
        ("127.0.0.1:8081", 200),
        ("127.0.0.1", 200),
        ("[::1]:8081", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("192.0.2.1:8081", 421),
        ("", 421),
    ] {
        assert_eq!(ask(address, "GET", "/fragment", host).await.0, status, "{host}");
    }
}

/// Reads of a stream of events until a text is there.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        let n = stream.read(&mut part).await.unwrap();
        assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&part[..n]);
        let so_far = String::from_utf8_lossy(&all).into_owned();
        if so_far.contains(text) {
            return so_far;
        }
    }
}

fn digest_of(page: &str) -> String {
    let (_, rest) = page.split_once("data-digest=\"").unwrap();
    rest.split_once('"').unwrap().0.to_string()
}

#[tokio::test]
async fn a_listener_is_told_of_a_change_and_of_nothing_else() {
    let (world, address) = served(small()).await;
    let shown = digest_of(&ask(address, "GET", "/", "localhost").await.1);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /events?seen={shown} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "text/event-stream").await;
    assert!(!head.contains("changed"), "{head}");
    // A change of what the page does not show says nothing: the next message is of the one that it shows.
    world.live.changed();
    world.seen.write().unwrap().guests.pop();
    world.live.changed();
    let told = read_until(&mut stream, "\n\n").await;
    let now = digest_of(&ask(address, "GET", "/", "localhost").await.1);
    assert_ne!(now, shown);
    assert!(
        told.contains("event: changed") && told.contains(&format!("data: {now}")),
        "{told}"
    );
    // Who opened the page before the change learns of it at once.
    let mut late = TcpStream::connect(address).await.unwrap();
    late.write_all(request.as_bytes()).await.unwrap();
    let told = read_until(&mut late, &format!("data: {now}")).await;
    assert!(told.contains("event: changed"), "{told}");
}

/// Three changes within a second are one message, and a change back is none.
#[tokio::test(start_paused = true)]
async fn changes_are_told_once_a_second_at_most() {
    use futures::StreamExt;
    let world = Arc::new(World {
        seen: RwLock::new(small()),
        live: Live::default(),
    });
    let site = Arc::new(Site {
        ui: world.clone(),
        made: Mutex::default(),
        listeners: Arc::new(Semaphore::new(1)),
        loopback: true,
    });
    let place = site.listeners.clone().try_acquire_owned().unwrap();
    let mut told = std::pin::pin!(changes(site.clone(), site.made().digest.to_string(), place));
    let guest = world.seen.read().unwrap().guests[0].clone();
    let began = tokio::time::Instant::now();
    let change = async {
        for _ in 0..3 {
            world.seen.write().unwrap().guests.pop();
            world.live.changed();
            tokio::task::yield_now().await;
        }
    };
    let (first, ()) = tokio::join!(told.next(), change);
    assert!(first.is_some() && began.elapsed() >= PAUSE, "{:?}", began.elapsed());
    world.seen.write().unwrap().guests.push(guest);
    world.live.changed();
    world.seen.write().unwrap().guests.pop();
    world.live.changed();
    let nothing = tokio::time::timeout(PAUSE * 100, told.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_listener_too_many_is_refused_and_has_the_page() {
    let (_, address) = served(small()).await;
    let mut open = Vec::new();
    for _ in 0..LISTENERS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        read_until(&mut stream, "text/event-stream").await;
        open.push(stream);
    }
    assert_eq!(ask(address, "GET", "/events", "localhost").await.0, 503);
    assert_eq!(ask(address, "GET", "/", "localhost").await.0, 200);
}

/// For looking at: `cargo test --lib ui::serve::tests::shown -- --ignored`, then open the address.
#[tokio::test]
#[ignore = "serves until it is stopped"]
async fn shown() {
    let (_, one) = served(small()).await;
    let (_, other) = served(large(500)).await;
    println!("http://{one}/ and http://{other}/");
    std::future::pending::<()>().await;
}

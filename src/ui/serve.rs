//! The page over HTTP: read-only, and nothing from elsewhere.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{Stream, stream};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::live::Live;
use super::page;
use super::view::{Seen, fleet};

/// Shortest time between two messages to a listener.
const PAUSE: Duration = Duration::from_secs(1);

/// Pages that are told of changes at once; others show what they got when they were opened.
const LISTENERS: usize = 64;

const CONTENT_SECURITY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src \
                                'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where the page's objects are.
pub trait Ui: Send + Sync + 'static {
    /// The objects and events as they are now.
    fn seen(&self) -> Seen;
    /// What tells of changes.
    fn live(&self) -> &Live;
}

/// A fragment as it was made last.
#[derive(Clone)]
struct Made {
    changes: u64,
    digest: Arc<str>,
    fragment: Arc<str>,
}

struct Site {
    ui: Arc<dyn Ui>,
    made: Mutex<Option<Made>>,
    listeners: Arc<Semaphore>,
    loopback: bool,
}

impl Site {
    /// The fragment as it is now, made anew only after a change.
    fn made(&self) -> Made {
        // Whoever comes meanwhile waits for this one rather than making it a second time.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = *self.ui.live().changes().borrow();
        if let Some(made) = made.as_ref().filter(|made| made.changes == changes) {
            return made.clone();
        }
        let fragment = page::fragment(&fleet(&self.ui.seen()));
        let hash = Sha256::digest(fragment.as_bytes());
        let digest: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let new = Made {
            changes,
            digest: digest.into(),
            fragment: fragment.into(),
        };
        *made = Some(new.clone());
        new
    }
}

/// Answers until the process ends.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, ui: Arc<dyn Ui>) -> std::io::Result<()> {
    let site = Arc::new(Site {
        ui,
        made: Mutex::default(),
        listeners: Arc::new(Semaphore::new(LISTENERS)),
        loopback: listener.local_addr()?.ip().is_loopback(),
    });
    let file =
        |kind: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], text) });
    // `get` answers HEAD as well, and nothing else.
    let router = Router::new()
        .route("/", get(whole))
        .route("/fragment", get(fragment))
        .route("/events", get(events))
        .route("/style.css", file("text/css; charset=utf-8", include_str!("style.css")))
        .route(
            "/page.js",
            file("text/javascript; charset=utf-8", include_str!("page.js")),
        )
        .route("/icon.svg", file("image/svg+xml", include_str!("icon.svg")))
        .layer(middleware::from_fn_with_state(site.clone(), guard))
        .with_state(site);
    axum::serve(listener, router).await
}

/// Sets the headers of every answer. On loopback a name that somebody else's page made to lead here is refused: what that
/// page's script asks for would come from its own origin, and it could read it.
async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let mut response = match site.loopback && !names_loopback(request.headers()) {
        true => (StatusCode::MISDIRECTED_REQUEST, "only for http://localhost\n").into_response(),
        false => next.run(request).await,
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the Host of a request is loopback, by name or address.
fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| {
        let whole = host.parse::<SocketAddr>().map(|address| address.ip());
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let address = whole.or_else(|_| host.trim_matches(['[', ']']).parse::<IpAddr>());
        let address = address.or_else(|_| name.parse::<IpAddr>());
        address.is_ok_and(|address| address.is_loopback()) || name.eq_ignore_ascii_case("localhost")
    })
}

async fn whole(State(site): State<Arc<Site>>) -> impl IntoResponse {
    let made = site.made();
    html(page::page(&made.fragment, &made.digest))
}

async fn fragment(State(site): State<Arc<Site>>) -> impl IntoResponse {
    html(site.made().fragment.to_string())
}

fn html(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text)
}

/// What a page shows that asks to be told of changes.
#[derive(Deserialize)]
struct Shown {
    seen: Option<String>,
}

/// Says `changed` with the digest of the fragment, at most once a second, and only where it is another one than before.
async fn events(State(site): State<Arc<Site>>, Query(shown): Query<Shown>, headers: HeaderMap) -> Response {
    let Ok(place) = site.listeners.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages listen\n").into_response();
    };
    // A browser that connects again tells the last event that it got.
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let seen = last.map(String::from).or(shown.seen).unwrap_or_default();
    Sse::new(changes(site, seen, place))
        .keep_alive(KeepAlive::default())
        .into_response()
}

struct Listener {
    site: Arc<Site>,
    changes: watch::Receiver<u64>,
    seen: String,
    began: bool,
    _place: OwnedSemaphorePermit,
}

fn changes(
    site: Arc<Site>,
    seen: String,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let changes = site.ui.live().changes();
    let listener = Listener {
        site,
        changes,
        seen,
        began: false,
        _place: place,
    };
    stream::unfold(listener, |mut listener| async move {
        loop {
            if listener.began {
                // What changes while it pauses is one change.
                tokio::time::sleep(PAUSE).await;
                listener.changes.changed().await.ok()?;
            }
            listener.began = true;
            listener.changes.mark_unchanged();
            let digest = listener.site.made().digest.to_string();
            if digest != listener.seen {
                listener.seen.clone_from(&digest);
                let event = Event::default().event("changed").id(&digest).data(digest);
                return Some((Ok(event), listener));
            }
        }
    })
}

#[cfg(test)]
#[path = "serve_tests.rs"]
pub(super) mod tests;

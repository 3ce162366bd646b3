//! Who may read `/metrics`: whoever the API server says may `get` that path, as with the metrics of Kubernetes' own parts.
//! A bearer token is shown to it (TokenReview), and then asked for what it may (SubjectAccessReview).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use crate::engine::store::StoreError;

use super::objects::store::call;

/// For so long an answer of the API server counts: a scraper comes every few seconds, and a permission that was taken away
/// should not count for long.
const KEPT: Duration = Duration::from_secs(60);

/// Answers that are kept. Strangers with new tokens push out those of others, which costs these a question.
const MOST: usize = 256;

/// Asks the API server who may read.
pub(super) struct Access {
    client: Client,
    /// Answers by the hash of the token, which itself is not kept.
    answers: Mutex<HashMap<[u8; 32], (Instant, StatusCode)>>,
}

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Access {
            client,
            answers: Mutex::default(),
        }
    }

    /// Whether who sent these headers may `get` the path; otherwise the status to answer.
    pub(super) async fn check(&self, headers: &HeaderMap, path: &str) -> Result<(), StatusCode> {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let token = token
            .filter(|token| !token.is_empty())
            .ok_or(StatusCode::UNAUTHORIZED)?;
        let status = self.status(token, path).await;
        if status == StatusCode::OK { Ok(()) } else { Err(status) }
    }

    async fn status(&self, token: &str, path: &str) -> StatusCode {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(token)
            .chain_update([0])
            .chain_update(path)
            .finalize()
            .into();
        let known = self.lock().get(&hash).copied();
        if let Some((_, status)) = known.filter(|(at, _)| at.elapsed() < KEPT) {
            return status;
        }
        match self.ask(token, path).await {
            Ok(status) => {
                let mut answers = self.lock();
                if answers.len() >= MOST {
                    answers.clear();
                }
                answers.insert(hash, (Instant::now(), status));
                status
            }
            Err(error) => {
                warn!(%error, "who reads {path} cannot be checked; kubectl apply -f config/monitoring/metrics-auth.yaml?");
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Instant, StatusCode)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, token: &str, path: &str) -> Result<StatusCode, StoreError> {
        let Some(user) = self.user(token).await? else {
            return Ok(StatusCode::UNAUTHORIZED);
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.into()),
                    verb: Some("get".into()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = call(reviews.create(&PostParams::default(), &review)).await?;
        let allowed = answer
            .status
            .is_some_and(|status| status.allowed && status.denied != Some(true));
        Ok(if allowed { StatusCode::OK } else { StatusCode::FORBIDDEN })
    }

    /// Whose token it is; nobody's: `None`.
    async fn user(&self, token: &str) -> Result<Option<UserInfo>, StoreError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.into()),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = call(reviews.create(&PostParams::default(), &review)).await?;
        let status = answer.status.filter(|status| status.authenticated == Some(true));
        Ok(status.and_then(|status| status.user))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::extract::Request;
    use axum::http::Response;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that knows two users, of whom one may read, and counts what it was asked.
    fn api_server() -> (Client, Arc<Mutex<Vec<Value>>>) {
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let seen = asked.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let seen = seen.clone();
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut review: Value = serde_json::from_slice(&body).unwrap();
                seen.lock().unwrap().push(review.clone());
                let spec = &review["spec"];
                let (code, status) = match (&spec["token"], &spec["user"]) {
                    (Value::String(token), _) if token == "broken" => (500, json!(null)),
                    (Value::String(token), _) if token == "stranger" => (201, json!({"authenticated": false})),
                    (Value::String(token), _) => {
                        let user = json!({"username": token, "groups": ["readers"], "extra": {"pod": ["p"]}});
                        (201, json!({"authenticated": true, "user": user}))
                    }
                    (_, user) => (201, json!({"allowed": user == "reader"})),
                };
                review["status"] = status;
                let answer = Response::builder().status(code).body(Body::from(review.to_string()));
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        });
        (Client::new(service, "default"), asked)
    }

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_server_says_who_may_read() {
        let (client, asked) = api_server();
        let access = Access::new(client);
        let check = async |headers: HeaderMap| access.check(&headers, "/metrics").await;
        assert_eq!(check(HeaderMap::new()).await, Err(StatusCode::UNAUTHORIZED));
        let mut basic = HeaderMap::new();
        basic.insert(header::AUTHORIZATION, "Basic cmVhZGVy".parse().unwrap());
        assert_eq!(check(basic).await, Err(StatusCode::UNAUTHORIZED));
        assert!(asked.lock().unwrap().is_empty(), "nothing to ask about");
        assert_eq!(check(bearer("stranger")).await, Err(StatusCode::UNAUTHORIZED));
        assert_eq!(check(bearer("someone")).await, Err(StatusCode::FORBIDDEN));
        assert_eq!(check(bearer("reader")).await, Ok(()));
        let review = asked.lock().unwrap().last().cloned().unwrap();
        assert_eq!(
            review["spec"],
            json!({"user": "reader", "groups": ["readers"], "extra": {"pod": ["p"]},
                "nonResourceAttributes": {"path": "/metrics", "verb": "get"}})
        );
        assert_eq!(check(bearer("broken")).await, Err(StatusCode::SERVICE_UNAVAILABLE));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_a_minute() {
        let (client, asked) = api_server();
        let access = Access::new(client);
        let count = || asked.lock().unwrap().len();
        for _ in 0..5 {
            access.check(&bearer("reader"), "/metrics").await.unwrap();
        }
        assert_eq!(count(), 2, "once each");
        access.check(&bearer("someone"), "/metrics").await.unwrap_err();
        assert_eq!(count(), 4, "of another token nothing is known");
        tokio::time::advance(KEPT).await;
        access.check(&bearer("reader"), "/metrics").await.unwrap();
        assert_eq!(count(), 6);
        for _ in 0..2 {
            access.check(&bearer("broken"), "/metrics").await.unwrap_err();
        }
        assert_eq!(count(), 8, "a failure says nothing about the token");
        for stranger in 0..3 * MOST {
            access
                .check(&bearer(&format!("s{stranger}")), "/metrics")
                .await
                .unwrap_err();
        }
        assert!(access.lock().len() <= MOST);
    }
}

//! A defect in Phoenix, a panic, costs only the work in which it happened: it is caught, told and counted.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::FutureExt;

/// Does work of which a panic is an error with its words. What the work shares with others is behind locks whose
/// holders leave them whole, or is looked at anew. Large futures are better boxed: they would be moved on the stack.
///
/// # Errors
/// The words of the panic.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(words)
}

/// As [`caught`], for work that does not wait.
///
/// # Errors
/// The words of the panic.
pub fn caught_now<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(words)
}

/// What status says of a panic.
pub fn message(words: &str) -> String {
    format!(
        "a defect in Phoenix ended the work on this object; it is tried again after a pause. Please report it: {words}"
    )
}

#[allow(clippy::needless_pass_by_value, reason = "it is what catch_unwind gives")]
fn words(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_words_of_a_panic_are_told() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let n = 2;
        let formatted = caught(async {
            if n > 1 {
                panic!("no {n}")
            }
        })
        .await;
        assert_eq!(formatted, Err("no 2".into()));
        assert_eq!(
            caught_now(|| if n > 1 {
                panic!("plain")
            }),
            Err("plain".into())
        );
    }
}

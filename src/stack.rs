//! A stack that is large enough for what users may nest: YAML is read by recursion, and whose thread asks for it, and
//! how much of its stack is in use, is not known there.

/// Bytes; memory is only taken as far as it is used.
const LARGE: usize = 64 << 20;

/// Does something on a large stack; on the caller's own where there is no thread to be had.
///
/// # Errors
/// That it panicked.
pub fn large<T: Send>(work: impl Fn() -> T + Send + Copy) -> Result<T, &'static str> {
    std::thread::scope(
        |scope| match std::thread::Builder::new().stack_size(LARGE).spawn_scoped(scope, work) {
            Ok(thread) => thread
                .join()
                .map_err(|_| "a defect in Phoenix ended the reading: please report it"),
            Err(_) => Ok(work()),
        },
    )
}

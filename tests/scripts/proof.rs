//! The CUDA proof as guests run it, against drivers of the test's own: a `libcuda.so.1` in C that works, fails, lies or hangs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use phoenix::desired::scripts::proof::BODY;

/// CUDA's driver API as far as the proof calls it. What a macro names fails with that code.
const DRIVER: &str = r#"
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
#ifndef INIT
#define INIT 0
#endif
#ifndef COUNT
#define COUNT 2
#endif
#ifndef CONTEXT
#define CONTEXT 0
#endif
#ifndef ALLOC
#define ALLOC 0
#endif
#ifndef WRONG
#define WRONG 0
#endif
int cuInit(unsigned flags) {
#ifdef HANGS
  for (;;) sleep(1);
#endif
#ifdef CRASHES
  abort();
#endif
  return INIT;
}
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA Test Card", length); return 0; }
int cuDeviceGetPCIBusId(char *at, int length, int device) { strncpy(at, device ? "0000:C1:00.0" : "0000:41:00.0", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1 << 30; return 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) { *context = 0; return CONTEXT; }
int cuCtxDestroy_v2(void *context) { return 0; }
int cuMemAlloc_v2(void **memory, size_t size) { *memory = malloc(size); return ALLOC; }
int cuMemFree_v2(void *memory) { free(memory); return 0; }
int cuMemcpyHtoD_v2(void *to, const void *from, size_t size) { memcpy(to, from, size); return 0; }
int cuMemcpyDtoH_v2(void *to, void *from, size_t size) { memcpy(to, from, size); ((char *)to)[7] ^= WRONG; return 0; }
int cuGetErrorName(int code, const char **name) { *name = code == 999 ? "CUDA_ERROR_UNKNOWN" : "CUDA_ERROR_OTHER"; return 0; }
"#;

struct Guest {
    folder: tempfile::TempDir,
}

impl Guest {
    /// A guest on a node whose module has a version.
    fn new(module: &str) -> Guest {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path().join("proc/driver/nvidia");
        fs::create_dir_all(&proc).unwrap();
        let text = format!("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {module}  Release Build  (x)\n");
        fs::write(proc.join("version"), text).unwrap();
        Guest { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The driver of a version, built with macros.
    fn driver(self, version: &str, macros: &[&str]) -> Guest {
        let (source, library) = (self.path("cuda.c"), self.path(&format!("libcuda.so.{version}")));
        fs::write(&source, DRIVER).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-o"])
            .arg(&library)
            .args(macros.iter().map(|m| format!("-D{m}")))
            .arg(&source)
            .status()
            .unwrap();
        assert!(built.success(), "cc builds Rust's programs, and this one");
        symlink(&library, self.path("libcuda.so.1")).unwrap();
        self
    }

    /// Exit code and last line of the proof.
    fn proof(&self, more: &[(&str, &str)]) -> (i32, String) {
        let script = self.path("proof.sh");
        fs::write(&script, BODY).unwrap();
        let library = self.path("libcuda.so.1");
        let output = Command::new("/bin/sh")
            .arg(&script)
            .env("PHOENIX_PROC", self.path("proc"))
            .env("PHOENIX_LIBCUDA", &library)
            .envs(more.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().last().unwrap_or_default().to_owned();
        (output.status.code().unwrap(), line)
    }
}

#[test]
fn a_driver_that_works_is_proven_by_calls_of_every_sort() {
    let guest = Guest::new("580.76.05").driver("580.76.05", &[]);
    let (code, line) = guest.proof(&[]);
    assert_eq!(code, 0, "{line}");
    let words = "CUDA outcome=ok count=2 copied=2 cuda=13000 names=NVIDIA_Test_Card;NVIDIA_Test_Card at=0000:41:00.0;0000:c1:00.0 userspace=580.76.05 module=580.76.05";
    assert!(line.starts_with(words), "{line}");
    // A card whose memory is full is not broken, and nothing was copied to it.
    for full in ["CONTEXT=2", "ALLOC=2"] {
        let (code, line) = Guest::new("580.76.05").driver("580.76.05", &[full]).proof(&[]);
        assert_eq!(code, 0, "{line}");
        assert!(line.starts_with("CUDA outcome=ok count=2 copied=0"), "{line}");
    }
}

#[test]
fn what_fails_is_told_by_call_number_and_name() {
    for (macros, words) in [
        (
            ["INIT=999"],
            "outcome=error call=cuInit code=999 name=CUDA_ERROR_UNKNOWN",
        ),
        (
            ["COUNT=0"],
            "outcome=error call=cuDeviceGetCount code=100 name=CUDA_ERROR_NO_DEVICE",
        ),
        (["CONTEXT=46"], "outcome=error call=cuCtxCreate_v2 code=46"),
        (["ALLOC=214"], "outcome=error call=cuMemAlloc_v2 code=214"),
        (["ALLOC=719"], "outcome=error call=cuMemAlloc_v2 code=719"),
        (["WRONG=1"], "outcome=copy-differs device=0"),
        (["CRASHES"], "outcome=crashed code=134"),
    ] {
        let (code, line) = Guest::new("580.76.05").driver("580.76.05", &macros).proof(&[]);
        assert_eq!(code, 3, "{line}");
        assert!(line.starts_with(&format!("CUDA {words}")), "{line}");
    }
}

#[test]
fn a_driver_that_hangs_is_stopped() {
    let guest = Guest::new("580.76.05").driver("580.76.05", &["HANGS"]);
    let (code, line) = guest.proof(&[("PHOENIX_CUDA_SECONDS", "1")]);
    assert_eq!(code, 3);
    assert!(line.starts_with("CUDA outcome=hangs"), "{line}");
}

#[test]
fn a_driver_of_another_version_than_the_module_is_not_tried() {
    let guest = Guest::new("590.10").driver("580.76.05", &["HANGS"]);
    let (code, line) = guest.proof(&[]);
    assert_eq!(code, 3);
    assert!(
        line.starts_with("CUDA outcome=mismatch userspace=580.76.05 module=590.10"),
        "{line}"
    );
}

#[test]
fn without_a_driver_or_python_nothing_is_wrong_and_nothing_is_claimed() {
    let (code, line) = Guest::new("580.76.05").proof(&[]);
    assert_eq!((code, line.as_str()), (0, "CUDA outcome=no-driver module=580.76.05"));
    let guest = Guest::new("580.76.05").driver("580.76.05", &[]);
    let (code, line) = guest.proof(&[("PHOENIX_PYTHONS", "no-such-python")]);
    assert_eq!(code, 0);
    assert!(line.starts_with("CUDA outcome=no-python userspace=580.76.05"), "{line}");
}

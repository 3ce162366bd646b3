//! The page in Chromium, where it is installed: driven by its DevTools protocol over a pipe. With `PHOENIX_SCREENSHOTS=DIR`
//! pictures are left there.

use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::ui::serve::tests::served;
use crate::ui::view::testing::{large, small};

/// A tab of a browser of its own.
struct Tab {
    _browser: Child,
    _profile: tempfile::TempDir,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    calls: u64,
    /// What console and log of the browser complained of.
    complaints: Vec<String>,
}

impl Tab {
    /// `None`, with a line that says so, where there is no Chromium.
    async fn open() -> Option<Tab> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join("chromium").is_file()) {
            eprintln!("skipped: chromium is not installed");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        // The protocol goes over descriptors 3 and 4, which a shell makes of its own input and output.
        let line = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe \
                    --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut browser = Command::new("sh")
            .args(["-c", line])
            .arg(profile.path())
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (to, from) = (browser.stdin.take().unwrap(), browser.stdout.take().unwrap());
        let mut tab = Tab {
            _browser: browser,
            _profile: profile,
            to,
            from: BufReader::new(from),
            session: None,
            calls: 0,
            complaints: Vec::new(),
        };
        let target = tab.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let session = tab.call("Target.attachToTarget", attach).await;
        tab.session = session["sessionId"].as_str().map(String::from);
        for domain in ["Page", "Runtime", "Log"] {
            tab.call(&format!("{domain}.enable"), json!({})).await;
        }
        Some(tab)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).await.unwrap();
        loop {
            let mut bytes = Vec::new();
            let n = self.from.read_until(0, &mut bytes).await.unwrap();
            assert!(n > 0, "the browser ended");
            let message: Value = serde_json::from_slice(&bytes[..n - 1]).unwrap();
            let params = &message["params"];
            let complaint = match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Runtime.consoleAPICalled") => true,
                Some("Log.entryAdded") => params["entry"]["level"] != "verbose",
                _ => false,
            };
            if complaint {
                self.complaints.push(params.to_string());
            }
            if message["id"] == self.calls {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }

    /// What an expression, or the promise that it is, comes to.
    async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Opens a page on a screen of this width.
    async fn look(&mut self, address: std::net::SocketAddr, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await;
        self.call("Page.navigate", json!({"url": format!("http://{address}/")}))
            .await;
        // The script has run, and what it listens to has answered.
        self.until("document.readyState === 'complete' && document.querySelector('#live.on')")
            .await;
    }

    /// Waits until an expression holds.
    async fn until(&mut self, expression: &str) {
        let wait = format!(
            "new Promise((done) => {{ const look = () => ({expression}) ? done() : setTimeout(look, 20); look(); }})"
        );
        self.evaluate(&wait).await;
    }

    async fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("PHOENIX_SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let data = answer["data"].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}

/// Texts whose colour has less than 4.5 times the luminance of what is behind it, or the other way round (WCAG AA).
const FAINT: &str = r#"(() => {
    const parts = (color) => color.match(/[\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = parts(color).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (one) => {
        for (; one; one = one.parentElement) {
            const color = getComputedStyle(one).backgroundColor;
            if (parts(color)[3] !== 0) return color;
        }
    };
    const faint = [];
    for (const one of document.body.querySelectorAll('*')) {
        const texts = [...one.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
        if (texts.length === 0 || one.getClientRects().length === 0) continue;
        const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) faint.push(`${one.tagName}.${one.className} ${one.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
    }
    return faint;
})()"#;

/// Elements that reach beyond the screen's right edge.
const WIDE: &str = "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)\
                    .map((e) => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`).slice(0, 5)";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_and_can_be_read_on_phones_and_screens_in_light_and_dark() {
    let Some(mut tab) = Tab::open().await else { return };
    let (_, address) = served(small()).await;
    for (width, scheme) in [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")] {
        tab.look(address, width, scheme).await;
        let folded = tab.evaluate("document.documentElement.scrollWidth <= innerWidth").await;
        assert_eq!(folded, true, "{width} {scheme}: {}", tab.evaluate(WIDE).await);
        tab.picture(&format!("small-{width}-{scheme}")).await;
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            .await;
        assert_eq!(tab.evaluate(WIDE).await, json!([]), "{width} {scheme}");
        assert_eq!(tab.evaluate(FAINT).await, json!([]), "{width} {scheme}");
        tab.picture(&format!("small-{width}-{scheme}-opened")).await;
    }
    assert_eq!(tab.complaints, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_shown_without_a_reload_and_what_was_opened_stays_open() {
    let Some(mut tab) = Tab::open().await else { return };
    let (world, address) = served(small()).await;
    tab.look(address, 1280, "light").await;
    tab.evaluate(
        "const row = document.getElementById('PhoenixLXC/ai/qwen'); row.open = true; \
         row.querySelector('summary').focus(); globalThis.stays = true",
    )
    .await;
    {
        let mut seen = world.seen.write().unwrap();
        let guest = seen.guests.iter_mut().find(|guest| guest.key.name == "qwen").unwrap();
        guest.status.ip = Some("192.0.2.99".into());
    }
    world.live.changed();
    let row = "document.getElementById('PhoenixLXC/ai/qwen')";
    tab.until(&format!("{row}.textContent.includes('192.0.2.99')")).await;
    let kept = format!("stays && {row}.open && document.activeElement === {row}.querySelector('summary')");
    assert_eq!(tab.evaluate(&kept).await, true);
    let tooltip = format!(
        "const mark = {row}.querySelector('.strip i'); mark.dispatchEvent(new Event('pointerover', {{ bubbles: true }})); \
         mark.title"
    );
    assert_eq!(tab.evaluate(&tooltip).await, "Ready · Ready · 2026-03-01 12:00:00");
    assert_eq!(tab.complaints, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_guests_are_folded_and_can_be_found() {
    let Some(mut tab) = Tab::open().await else { return };
    let (_, address) = served(large(500)).await;
    for width in [360, 1280] {
        tab.look(address, width, "light").await;
        let visible =
            "document.querySelectorAll('.guest').values().filter((row) => row.checkVisibility()).toArray().length";
        assert_eq!(tab.evaluate(visible).await, 0, "all are folded");
        tab.picture(&format!("large-{width}")).await;
        let search = |words: &str| {
            format!(
                "{{ const box = document.getElementById('filter'); box.value = '{words}'; \
                 box.dispatchEvent(new Event('input')); }} {visible}"
            )
        };
        assert_eq!(tab.evaluate(&search("model-server-123")).await, 1);
        assert_eq!(tab.evaluate(&search("server qwen2.5 stalled")).await, 9);
        assert_eq!(tab.evaluate(WIDE).await, json!([]), "{width}");
        tab.picture(&format!("large-{width}-filtered")).await;
        assert_eq!(tab.evaluate(&search("")).await, 0, "folded again");
        let clicked = format!("document.querySelector('button.stalled').click(); {visible}");
        assert_eq!(tab.evaluate(&clicked).await, 10);
    }
    assert_eq!(tab.complaints, Vec::<String>::new());
}

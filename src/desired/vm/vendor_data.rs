//! What cloud-init is told beyond Proxmox's own cloud-init options: the vendor-data snippet.
//!
//! User, keys, password hash, addresses and host name are options of the machine, and Proxmox writes user-data and
//! network-config from them (facts F.2). Everything else goes into a snippet that is attached as *vendor*-data
//! (`cicustom: vendor=…`): it adds to Proxmox's user-data instead of replacing it, so neither keys nor a password hash
//! ever lie in a file on a storage. cloud-init applies it at an instance's first boot.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::pve::units;

/// Snippets of one machine may have so many bytes together (facts F.2).
pub const MAX_BYTES: usize = 3 << 20;

/// Folder in the guest for the programs of [`FirstBoot::programs`].
const PROGRAMS: &str = "/var/lib/phoenix/first-boot";

/// Keys of cloud-config that Proxmox's own user-data sets: it comes after vendor-data and would silently win.
const PROXMOX_KEYS: [(&str, &str); 9] = [
    ("users", "cloudInit.user and cloudInit.sshKeysSecretRef"),
    ("user", "cloudInit.user"),
    ("password", "cloudInit.passwordHashSecretRef"),
    ("chpasswd", "cloudInit.passwordHashSecretRef"),
    ("ssh_authorized_keys", "cloudInit.sshKeysSecretRef"),
    ("hostname", "hostname"),
    ("fqdn", "hostname and dns.searchDomains"),
    ("manage_etc_hosts", "hostname"),
    ("package_upgrade", "cloudInit.upgrade"),
];

/// Kinds of user-data by their first line, as cloud-init tells them apart.
const FORMATS: [(&str, &str); 4] = [
    ("#cloud-config", "text/cloud-config"),
    ("#!", "text/x-shellscript"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include", "text/x-include-url"),
];

/// What a machine does at its first boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstBoot<'a> {
    /// Packages to install.
    pub packages: &'a [String],
    /// The user's own data, which reaches cloud-init byte for byte.
    pub user_data: Option<&'a str>,
    /// Install and start the QEMU guest agent, which cloud images lack.
    pub agent: bool,
    /// Shell programs that each start one script detached and print its record (`crate::remote::runner`). They run one
    /// after another; the first that fails ends the row. They lie in a file on a storage: no secrets.
    pub programs: &'a [String],
}

/// One part of the data, of a kind that cloud-init knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Such as `text/cloud-config`.
    pub content_type: &'static str,
    /// The part itself.
    pub text: String,
}

/// The parts of the vendor-data; none if nothing is asked for.
///
/// # Errors
/// User-data of an unknown kind, that is no cloud-config though it says so, or that sets what Proxmox sets.
pub fn parts(wish: &FirstBoot) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    if let Some(text) = wish.user_data {
        let content_type = check_user_data(text)?;
        parts.push(Part {
            content_type,
            text: text.to_owned(),
        });
    }
    if let Some(own) = own_config(wish) {
        parts.push(Part {
            content_type: "text/cloud-config",
            text: format!(
                "#cloud-config\n{}\n",
                serde_json::to_string_pretty(&own).unwrap_or_default()
            ),
        });
    }
    Ok(parts)
}

/// The snippet: one part as it is, several as a MIME archive.
///
/// # Errors
/// As [`parts`], and more than [`MAX_BYTES`].
pub fn vendor_data(wish: &FirstBoot) -> Result<Option<String>, String> {
    let parts = parts(wish)?;
    let text = match parts.as_slice() {
        [] => return Ok(None),
        [one] => one.text.clone(),
        several => archive(several),
    };
    if text.len() > MAX_BYTES {
        return Err(format!(
            "cloud-init takes at most {}, and packages, userData and first-boot scripts make {}: let the machine fetch \
             large files itself",
            units::words(MAX_BYTES as u128),
            units::words((text.len() as u128).div_ceil(1 << 10) << 10)
        ));
    }
    Ok(Some(text))
}

/// Checks the user's own data; its content type.
///
/// # Errors
/// The reason, naming `cloudInit.userData` and the fix.
pub fn check_user_data(text: &str) -> Result<&'static str, String> {
    let first = text.lines().next().unwrap_or_default();
    let Some((_, content_type)) = FORMATS.iter().find(|(start, _)| first.starts_with(start)) else {
        return Err(format!(
            "cloudInit.userData begins with {first:?}: its first line must be #cloud-config, #!, #cloud-boothook or #include"
        ));
    };
    if *content_type == "text/cloud-config" {
        check_cloud_config(text)?;
    }
    Ok(content_type)
}

fn check_cloud_config(text: &str) -> Result<(), String> {
    let read =
        || serde_saphyr::from_str::<Value>(text).map_err(|e| format!("cloudInit.userData is not valid YAML: {e}"));
    let config = crate::stack::large(read)??;
    let keys = match &config {
        Value::Object(keys) => keys,
        Value::Null => return Ok(()),
        _ => return Err("cloudInit.userData must be a map of cloud-config keys, such as runcmd: [...]".into()),
    };
    match PROXMOX_KEYS.iter().find(|(key, _)| keys.contains_key(*key)) {
        Some((key, field)) => Err(format!(
            "cloudInit.userData sets {key}, which Proxmox's own user-data overrides: use {field}, or runcmd"
        )),
        None => Ok(()),
    }
}

/// Phoenix's own part, as JSON, which every YAML reader takes alike. Its lists are appended to those of the user's part.
fn own_config(wish: &FirstBoot) -> Option<Value> {
    let mut packages: Vec<&str> = wish.packages.iter().map(String::as_str).collect();
    let mut commands = Vec::new();
    if wish.agent {
        packages.push("qemu-guest-agent");
        // Where the package's own start failed because the device was not there yet.
        commands.push(json!(["sh", "-c", "systemctl start qemu-guest-agent || true"]));
    }
    let mut config = serde_json::Map::new();
    if !wish.programs.is_empty() {
        let mut files = vec![file("run", RUN_IN_ORDER)];
        for (n, program) in wish.programs.iter().enumerate() {
            files.push(file(&format!("{:02}.sh", n + 1), program));
        }
        config.insert("write_files".into(), Value::Array(files));
        commands.push(json!(["sh", format!("{PROGRAMS}/run")]));
    }
    if !packages.is_empty() {
        config.insert("package_update".into(), json!(true));
        config.insert("packages".into(), json!(packages));
    }
    if !commands.is_empty() {
        config.insert("runcmd".into(), Value::Array(commands));
    }
    if config.is_empty() {
        return None;
    }
    if wish.user_data.is_some() {
        let how = json!([
            {"name": "list", "settings": ["append"]},
            {"name": "dict", "settings": ["no_replace", "recurse_list"]}
        ]);
        config.insert("merge_how".into(), how);
    }
    Some(Value::Object(config))
}

fn file(name: &str, content: &str) -> Value {
    json!({"path": format!("{PROGRAMS}/{name}"), "permissions": "0700", "content": content})
}

/// Runs the programs in order. Each starts its script once however often it is called, and prints its record.
const RUN_IN_ORDER: &str = r#"#!/bin/sh
# Phoenix: scripts of the first boot, one after another. What ran is recorded in /var/lib/phoenix.
for program in "${0%/*}"/*.sh; do
    while :; do
        record=$(sh "$program" </dev/null) || exit 1
        case $(echo "$record" | sed -n 's/^state=//p') in
        finished) break ;;
        interrupted) exit 1 ;;
        esac
        sleep 2
    done
    [ "$(echo "$record" | sed -n 's/^exit=//p')" = 0 ] || exit 1
done
"#;

/// A MIME archive, base64 throughout so that no line of a part can be taken for a boundary.
fn archive(parts: &[Part]) -> String {
    const BOUNDARY: &str = "==phoenix-vendor-data==";
    let mut text = format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for part in parts {
        text.push_str(&format!(
            "--{BOUNDARY}\nContent-Type: {}; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n",
            part.content_type
        ));
        for line in BASE64.encode(&part.text).as_bytes().chunks(76) {
            // Base64 is ASCII, so that any cut of it is text.
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
    }
    text.push_str(&format!("--{BOUNDARY}--\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user_data: &str) -> Result<Option<String>, String> {
        vendor_data(&FirstBoot {
            user_data: Some(user_data),
            ..FirstBoot::default()
        })
    }

    #[test]
    fn nothing_asked_for_is_no_snippet() {
        assert_eq!(vendor_data(&FirstBoot::default()), Ok(None));
    }

    #[test]
    fn the_users_data_alone_is_left_as_it_is() {
        let script = "#!/bin/sh\necho 'yes: 0644'\n";
        assert_eq!(of(script).unwrap().unwrap(), script);
        let config = "#cloud-config\npackage_update: yes\nruncmd: [\"true\"]\n";
        assert_eq!(of(config).unwrap().unwrap(), config);
    }

    #[test]
    fn what_would_be_lost_or_is_no_user_data_is_refused() {
        let table = [
            ("", "first line must be"),
            ("packages: [jq]\n", "begins with \"packages: [jq]\""),
            ("#cloud-config\n- a\n", "must be a map"),
            ("#cloud-config\na: [\n", "not valid YAML"),
            ("#cloud-config\npassword: geheim\n", "cloudInit.passwordHashSecretRef"),
            (
                "#cloud-config\nchpasswd: {list: 'a:b'}\n",
                "cloudInit.passwordHashSecretRef",
            ),
            ("#cloud-config\nusers: [default]\n", "cloudInit.user "),
            ("#cloud-config\nhostname: x\n", "use hostname"),
        ];
        for (text, expected) in table {
            let error = of(text).unwrap_err();
            assert!(
                error.contains(expected) && error.contains("cloudInit.userData"),
                "{text:?}: {error}"
            );
            assert!(!error.contains("geheim"));
        }
        assert!(of("#cloud-config\n").is_ok());
        let large = format!("#!/bin/sh\n{}", "#\n".repeat(MAX_BYTES / 2));
        assert!(of(&large).unwrap_err().contains("fetch large files"));
    }

    #[test]
    fn the_agent_comes_after_the_users_own_data() {
        let wish = FirstBoot {
            packages: &["jq".to_owned()],
            user_data: Some("#cloud-config\nruncmd: [\"true\"]\n"),
            agent: true,
            programs: &["echo state=finished; echo exit=0\n".to_owned()],
        };
        let parts = parts(&wish).unwrap();
        assert_eq!(parts.len(), 2);
        let own: Value = serde_json::from_str(parts[1].text.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        assert_eq!(own["packages"], json!(["jq", "qemu-guest-agent"]));
        assert_eq!(own["runcmd"].as_array().unwrap().len(), 2);
        assert_eq!(own["write_files"][1]["path"], "/var/lib/phoenix/first-boot/01.sh");
        assert_eq!(own["merge_how"][0]["settings"], json!(["append"]));
        let text = vendor_data(&wish).unwrap().unwrap();
        assert!(text.starts_with("Content-Type: multipart/mixed") && text.ends_with("==phoenix-vendor-data==--\n"));
    }
}

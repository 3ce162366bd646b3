//! Files from the network: the appliance index and `download-url` (facts G.4). Nothing is fetched: what stands behind
//! a URL is part of the configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{ApiError, Result};
use super::guest::OsImage;
use super::oci::{KEPT, REGISTRY};
use super::state::State;
use super::storage::Volume;

/// An entry of the appliance index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// File name.
    pub template: String,
    /// Name without version.
    pub package: String,
    /// Operating system with version, for example `debian-12`.
    pub os: String,
    /// Version.
    pub version: String,
    /// Section, for example `system`.
    pub section: String,
    /// One line about it.
    pub headline: String,
    /// Where it comes from.
    pub location: String,
    /// Checksum.
    pub sha512sum: String,
    /// Bytes.
    pub size: u64,
}

/// A file that a URL answers with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoteFile {
    /// Bytes.
    pub size: u64,
    /// Size of the disk in it, when it is a disk image; that of the file when absent.
    pub virtual_size: Option<u64>,
    /// Checksums by algorithm (`sha256`, …).
    pub sums: BTreeMap<String, String>,
    /// The operating system in it, when it is a container archive.
    pub os: Option<OsImage>,
    /// The image's configuration, when it is an OCI archive.
    pub oci: Option<super::oci::OciConfig>,
}

/// What a download task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// Node.
    pub node: String,
    /// Storage.
    pub storage: String,
    /// Content type: `vztmpl`, `iso` or `import`.
    pub content: String,
    /// Name in the storage.
    pub filename: String,
    /// URL.
    pub url: String,
    /// Algorithm and expected value.
    pub checksum: Option<(String, String)>,
    /// How the file is packed.
    #[serde(default)]
    pub compression: Option<String>,
}

/// A file that came with a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    /// Bytes.
    pub size: u64,
    /// Checksums by algorithm.
    pub sums: BTreeMap<String, String>,
}

/// What an upload task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Node.
    pub node: String,
    /// Storage.
    pub storage: String,
    /// Content type: `vztmpl`, `iso` or `import`.
    pub content: String,
    /// Name in the storage.
    pub filename: String,
    /// The file.
    pub file: UploadedFile,
    /// Algorithm and expected value.
    pub checksum: Option<(String, String)>,
}

/// Host and port of a URL where nobody can be listening: port 1 of the node itself.
pub fn unreachable(url: &str) -> Option<&str> {
    let host = url.split_once("://")?.1.split('/').next()?;
    let local = ["127.", "localhost:"].iter().any(|start| host.starts_with(start));
    (local && host.ends_with(":1")).then_some(host)
}

/// Format of a file in a storage by its name.
pub fn file_format(name: &str) -> &'static str {
    const ENDS: &[(&str, &str)] = &[
        (".tar.zst", "tzst"),
        (".tar.gz", "tgz"),
        (".tar.xz", "txz"),
        (".tar.bz2", "tbz2"),
        (".tar", "tar"),
        (".iso", "iso"),
        (".img", "img"),
        (".qcow2", "qcow2"),
        (".vmdk", "vmdk"),
        (".raw", "raw"),
    ];
    ENDS.iter()
        .find(|(end, _)| name.ends_with(end))
        .map_or("raw", |(_, format)| format)
}

impl State {
    fn remote(&self, url: &str) -> Option<&RemoteFile> {
        match url.strip_prefix(REGISTRY) {
            Some(reference) => self.in_registry(reference),
            None => self.remote_files.get(url),
        }
    }

    fn download_folder(&self, download: &Download) -> Result<String> {
        let storage = self.active_storage(&download.node, &download.storage)?;
        let folder = match download.content.as_str() {
            "vztmpl" => "template/cache",
            "iso" => "template/iso",
            other => other,
        };
        Ok(format!("{}/{folder}", storage.path))
    }

    pub(super) fn begin_download(&mut self, seq: u64, download: &Download) -> Result<u64> {
        if let Some(packing) = &download.compression {
            if download.content != "iso" {
                let text = format!("decompression not supported for {}", download.content);
                return Err(ApiError::die(text));
            }
            if !["gz", "lzo", "zst", "bz2"].contains(&packing.as_str()) {
                return Err(ApiError::die("no decompression method found"));
            }
        }
        let path = format!("{}/{}", self.download_folder(download)?, download.filename);
        let name = format!("{}/{}", download.content, download.filename);
        let present = self.storage(&download.storage)?.volume(&download.node, &name).cloned();
        match download.url.starts_with(REGISTRY) {
            true => self.log(seq, format!("skopeo copy {} oci-archive:{path}", download.url)),
            false => self.log(seq, format!("downloading {} to {path}", download.url)),
        }
        let Some(volume) = present else {
            let size = self.remote(&download.url).map_or(0, |file| file.size);
            return Ok(self.latency.refusal + (size >> 20) * self.latency.download_mib);
        };
        match &download.checksum {
            None => Err(ApiError::die(format!("refusing to override existing file '{path}'"))),
            Some((algorithm, wanted)) => {
                let got = volume.data.get(algorithm).cloned().unwrap_or_default();
                if !got.eq_ignore_ascii_case(wanted) {
                    let text = format!("checksum mismatch: got '{got}' != expect '{wanted}', aborting");
                    return Err(ApiError::die(text));
                }
                self.log(seq, "OK, got correct file already, no need to download");
                Ok(self.latency.refusal)
            }
        }
    }

    pub(super) fn finish_download(&mut self, seq: u64, download: &Download) -> Result<()> {
        let name = format!("{}/{}", download.content, download.filename);
        if self.storage(&download.storage)?.volume(&download.node, &name).is_some() {
            return Ok(());
        }
        let Some(file) = self.remote(&download.url).cloned() else {
            if download.url.starts_with(REGISTRY) {
                let path = format!("{}/{}", self.download_folder(download)?, download.filename);
                let command = format!("skopeo copy {} oci-archive:{path}", download.url);
                return Err(ApiError::die(format!("command '{command}' failed: exit code 1")));
            }
            if let Some(host) = unreachable(&download.url) {
                let text = format!("download failed: Connecting to {host}... failed: Connection refused.");
                return Err(ApiError::die(text));
            }
            self.log(
                seq,
                "Resolving host... HTTP request sent, awaiting response... 404 Not Found",
            );
            return Err(ApiError::die(format!(
                "download failed: command 'wget {}' failed: exit code 8",
                download.url
            )));
        };
        if let Some((algorithm, wanted)) = &download.checksum {
            let got = file.sums.get(algorithm).cloned().unwrap_or_default();
            if !got.eq_ignore_ascii_case(wanted) {
                return Err(ApiError::die(format!(
                    "checksum mismatch: got '{got}' != expect '{wanted}'"
                )));
            }
        }
        let mut data = file.sums;
        if let Some(size) = file.virtual_size {
            data.insert("virtual-size".to_owned(), size.to_string());
        }
        if let Some(config) = &file.oci {
            data.insert(KEPT.to_owned(), serde_json::json!(config).to_string());
        }
        if let Some(os) = file.os {
            self.images.insert(download.filename.clone(), os);
        }
        let uid = self.next_number();
        let ctime = self.seconds();
        let volume = Volume {
            uid,
            size: file.size,
            used: file.size,
            format: file_format(&download.filename).to_owned(),
            content: download.content.clone(),
            ctime,
            data,
            ..Volume::default()
        };
        let storage = self.storage(&download.storage)?;
        if storage.used(&download.node) + volume.size > storage.total {
            return Err(ApiError::die("download failed: write failed: No space left on device"));
        }
        self.storage_mut(&download.storage)?
            .insert(&download.node, &name, volume);
        self.log(
            seq,
            format!("download of '{}' to '{}' finished", download.url, download.filename),
        );
        Ok(())
    }

    pub(super) fn finish_upload(&mut self, seq: u64, upload: &Upload) -> Result<()> {
        if let Some((algorithm, wanted)) = &upload.checksum {
            let got = upload.file.sums.get(algorithm).cloned().unwrap_or_default();
            if !got.eq_ignore_ascii_case(wanted) {
                return Err(ApiError::die(format!(
                    "checksum mismatch: got '{got}' != expect '{wanted}'"
                )));
            }
            self.log(seq, "calculating checksum...OK, checksum verified");
        }
        let name = format!("{}/{}", upload.content, upload.filename);
        let volume = Volume {
            uid: self.next_number(),
            size: upload.file.size,
            used: upload.file.size,
            format: file_format(&upload.filename).to_owned(),
            content: upload.content.clone(),
            ctime: self.seconds(),
            data: upload.file.sums.clone(),
            ..Volume::default()
        };
        // A file of that name is overwritten.
        self.storage_mut(&upload.storage)?.insert(&upload.node, &name, volume);
        self.log(seq, "finished file import successfully");
        Ok(())
    }
}

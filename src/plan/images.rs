//! Images: on their storage, and what they are said to be, before a guest is made of them.

use crate::desired::{Source, images};
use crate::observed::{ApplianceIndex, Image};
use crate::pve::{ApiCall, GuestType};
use crate::reason::Reason;

use super::planner::Planner;
use super::{Effect, Next, Query, Stage};

impl Planner<'_> {
    /// The image is on its storage and may be used: its volume id. A name that holds the checksum says enough: Proxmox
    /// gives a file its name only once the checksum was right (facts G.4). A file by an appliance's name may be
    /// anybody's, so Proxmox compares it once with the checksum of its index.
    pub(crate) fn image_present(&mut self, stage: Stage, node: &str, source: &Source) -> Result<String, Next> {
        let volid = source.image_volid().unwrap_or_default();
        let image = match self.observed.image.clone() {
            None => {
                return Err(Next::Look(Query::Image {
                    node: node.to_string(),
                    volid,
                    appliance: match source {
                        Source::Appliance { template, .. } => Some(template.clone()),
                        _ => None,
                    },
                }));
            }
            Some(Err(failure)) => {
                let message = match source {
                    Source::Image { .. } => failure.message,
                    _ => format!(
                        "{}.source.{}.storage: {}",
                        self.prefix(),
                        self.image_field(),
                        failure.message
                    ),
                };
                return Err(self.wait(stage, failure.reason, message, 10));
            }
            Some(Ok(image)) => image,
        };
        match source {
            Source::Download {
                storage,
                content,
                filename,
                url,
                sha256,
            } if !image.present => {
                let call = ApiCall::post(format!("/nodes/{node}/storage/{storage}/download-url"))
                    .param("content", content)
                    .param("filename", images::stored_name(filename, sha256))
                    .param("url", url)
                    .param("checksum", sha256)
                    .param("checksum-algorithm", "sha256");
                let effect = Effect::task(node, call).downloading(volid.clone(), url);
                Err(self.run(stage, format!("download image {volid}"), vec![], effect))
            }
            Source::Appliance { storage, template } => {
                self.appliance(stage, node, (storage, template), &image).map(|()| volid)
            }
            _ if image.present => Ok(volid),
            _ => {
                let field = self.image_field();
                let message = format!(
                    "image {volid:?} is not on its storage: download it there, or correct {}.source.{field}.volid",
                    self.prefix()
                );
                Err(self.stuck(stage, Reason::ImageNotFound, message))
            }
        }
    }

    /// Field of the source that names an image.
    fn image_field(&self) -> &'static str {
        match self.desired.sort() {
            GuestType::Lxc => "image",
            GuestType::Qemu => "cloudImage",
        }
    }

    /// An image of the appliance index. The call that fetches it compares a file that is there (facts G.4).
    fn appliance(
        &mut self,
        stage: Stage,
        node: &str,
        (storage, template): (&String, &String),
        image: &Image,
    ) -> Result<(), Next> {
        let index = image.index.clone().unwrap_or_default();
        let volid = format!("{storage}:vztmpl/{template}");
        if image.present && image.compared {
            return Ok(());
        }
        if index.listed {
            let action = if image.present {
                format!("compare image {volid} with the checksum of the appliance index")
            } else {
                format!("download image {volid}")
            };
            let call = ApiCall::post(format!("/nodes/{node}/aplinfo"))
                .param("storage", storage)
                .param("template", template);
            let effect = Effect::task(node, call).downloading(volid, "");
            return Err(self.run(stage, action, vec![], effect));
        }
        if image.present {
            let message = format!(
                "the appliance index of node {node} does not list {template} any more, so nobody could compare {volid} with its checksum: it is used as it is"
            );
            self.condition("ImageNotCompared", true, Reason::NotInIndex, message);
            return Ok(());
        }
        let message = format!(
            "{}.source.image.appliance: {template:?} is not on storage {storage}, and the appliance index of node {node} does not list it: {}",
            self.prefix(),
            advice(&index)
        );
        Err(self.stuck(stage, Reason::ImageNotFound, message))
    }
}

/// What to name instead of an appliance that the index does not list.
fn advice(index: &ApplianceIndex) -> String {
    match index.newer.as_slice() {
        [] => "correct the name (`pveam available` on the node lists all, `pveam update` fetches the index)".into(),
        newer => format!("it holds only the newest build of each, so name {}", newer.join(" or ")),
    }
}

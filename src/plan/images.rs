//! Images: on their storage, and what they are said to be, before a guest is made of them.

use crate::desired::{Source, images};
use crate::observed::Image;
use crate::pve::{ApiCall, GuestType};
use crate::reason::Reason;

use super::planner::Planner;
use super::{Announce, Effect, Next, Query, Stage};

impl Planner<'_> {
    /// The image is on its storage and may be used: its volume id. A name that holds the checksum says enough: Proxmox
    /// gives a file its name only once the checksum was right (facts G.4). A file by an appliance's name may be
    /// anybody's, so Proxmox compares it once with the checksum of its index.
    pub(crate) fn image_present(&mut self, stage: Stage, node: &str, source: &Source) -> Result<String, Next> {
        if let Source::Appliance { storage, template } = source {
            let field = format!("{}.source.image", self.prefix());
            let field = match self.desired.source_by_volid {
                true => format!("{field}.volid"),
                false => format!("{field}.appliance"),
            };
            return self.appliance(stage, node, (storage, template), &field);
        }
        let volid = source.image_volid().unwrap_or_default();
        let image = self.image(stage, node, &volid, false)?;
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
                let fields = format!("{}.source.{}.url and its sha256", self.prefix(), self.image_field());
                Err(self.run(stage, format!("download image {volid} by {fields}"), vec![], effect))
            }
            _ if image.present => Ok(volid),
            _ => {
                let field = format!("{}.source.{}.volid", self.prefix(), self.image_field());
                let image = match self.desired.sort() {
                    GuestType::Lxc => self.image(stage, node, &volid, true)?,
                    GuestType::Qemu => image,
                };
                Err(self.no_image(stage, &field, &volid, &image))
            }
        }
    }

    /// The image of owner containers: a file on a storage, fetched from the appliance index where it is not there.
    pub(crate) fn owner_image(&mut self, stage: Stage, node: &str, volid: &str) -> Result<String, Next> {
        let field = "spec.volumeOwners.image";
        let appliance = volid.split_once(":vztmpl/");
        if let Some(parts) = appliance.filter(|(_, file)| images::is_open(file)) {
            return self.appliance(stage, node, parts, field);
        }
        // Who put the file there knows what it is.
        let image = self.image(stage, node, volid, false)?;
        match appliance {
            _ if image.present => Ok(volid.to_string()),
            Some(parts) => self.appliance(stage, node, parts, field),
            None => Err(self.no_image(stage, field, volid, &image)),
        }
    }

    /// A file of an image that is used as it is.
    pub(crate) fn file_present(&mut self, stage: Stage, node: &str, volid: &str, field: &str) -> Result<(), Next> {
        let image = self.image(stage, node, volid, false)?;
        match image.present {
            true => Ok(()),
            false => Err(self.no_image(stage, field, volid, &image)),
        }
    }

    /// What is known of an image on its storage.
    fn image(&mut self, stage: Stage, node: &str, volid: &str, index: bool) -> Result<Image, Next> {
        let known = self.observed.images.get(volid).cloned();
        let enough = |image: &Image| !index || image.index.is_some() || (image.present && image.compared);
        match known {
            Some(Ok(image)) if enough(&image) => Ok(image),
            Some(Err(failure)) => {
                // A volume id names its storage itself; the image of owner containers is not the object's.
                let source = self.desired.source.as_ref();
                let own = source.filter(|source| self.image_of(source).as_deref() == Some(volid));
                let field = own.map(|source| match source {
                    Source::Image { .. } => "volid",
                    _ if self.desired.source_by_volid => "volid",
                    _ => "storage",
                });
                let message = match field {
                    Some(field) => format!(
                        "{}.source.{}.{field}: {}",
                        self.prefix(),
                        self.image_field(),
                        failure.message
                    ),
                    None => failure.message,
                };
                Err(self.wait(stage, failure.reason, message, 10))
            }
            _ => Err(Next::Look(Query::Image {
                node: node.to_string(),
                volid: volid.to_string(),
                index,
            })),
        }
    }

    /// Field of the source that names an image.
    fn image_field(&self) -> &'static str {
        match self.desired.sort() {
            GuestType::Lxc => "image",
            GuestType::Qemu => "cloudImage",
        }
    }

    /// Volume id of a source's image; where its name leaves the build open, of the one that was chosen.
    pub(crate) fn image_of(&self, source: &Source) -> Option<String> {
        match source {
            Source::Appliance { storage, template } if images::is_open(template) => {
                let chosen = self.chosen(&self.choice(storage, template));
                Some(format!("{storage}:vztmpl/{}", chosen.unwrap_or(template)))
            }
            other => other.image_volid(),
        }
    }

    fn chosen(&self, choice: &str) -> Option<&String> {
        self.status.chosen_images.as_ref()?.get(choice)
    }

    /// Under which name a choice is kept: who asks for a template to be built anew asks for the newest image, too.
    fn choice(&self, storage: &str, open: &str) -> String {
        let rebuild = self.desired.life.rebuild.as_ref();
        let rebuild = rebuild.map_or(String::new(), |value| format!(" (rebuild {value})"));
        format!("{storage}:vztmpl/{open}{rebuild}")
    }

    /// An image by the name of an appliance. The call that fetches it compares a file that is there (facts G.4).
    fn appliance(
        &mut self,
        stage: Stage,
        node: &str,
        (storage, wanted): (&str, &str),
        field: &str,
    ) -> Result<String, Next> {
        let choice = self.choice(storage, wanted);
        let template = match (images::is_open(wanted), self.chosen(&choice).cloned()) {
            (false, _) => wanted.to_string(),
            (true, Some(chosen)) => chosen,
            (true, None) => return Err(self.choose(stage, node, (storage, wanted), field)),
        };
        let volid = format!("{storage}:vztmpl/{template}");
        let image = self.image(stage, node, &volid, true)?;
        if image.present && image.compared {
            return Ok(volid);
        }
        if image.index.iter().flatten().any(|name| *name == template) {
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
            return Ok(volid);
        }
        if images::is_open(wanted) {
            // What was chosen has gone before anything was made of it.
            return Err(self.choose(stage, node, (storage, wanted), field));
        }
        let message = format!(
            "{field}: {template:?} is not on storage {storage}, and the appliance index of node {node} does not list it: {}",
            advice(&template, &image)
        );
        Err(self.stuck(stage, Reason::ImageNotFound, message))
    }

    /// Chooses the newest image that fits: of the index, whose checksums are known, else of what is on the storage. It is
    /// in status before anything is made of it, so that a later index changes nothing.
    fn choose(&mut self, stage: Stage, node: &str, (storage, wanted): (&str, &str), field: &str) -> Next {
        let volid = format!("{storage}:vztmpl/{wanted}");
        let image = match self.image(stage, node, &volid, true) {
            Ok(image) => image,
            Err(next) => return next,
        };
        let listed = image.index.clone().unwrap_or_default();
        let newest = images::newest(wanted, &listed).or_else(|| images::newest(wanted, &image.files));
        let Some(name) = newest.cloned() else {
            let message = format!(
                "{field}: no image on storage {storage} fits {wanted:?}, and none in the appliance index of node {node} does: {}",
                advice(wanted, &image)
            );
            return self.stuck(stage, Reason::ImageNotFound, message);
        };
        let wanted = self.choice(storage, wanted);
        let action = format!("note {name} as the image that {wanted} means");
        self.run(stage, action, vec![Announce::Image { wanted, name }], Effect::Record)
    }

    fn no_image(&mut self, stage: Stage, field: &str, volid: &str, image: &Image) -> Next {
        let file = volid.rsplit('/').next().unwrap_or_default();
        let words = |near: Vec<&str>, before: &str| match near.as_slice() {
            [] => String::new(),
            near => format!("{before}{}", near.join(", ")),
        };
        let there = words(images::near(file, &image.files), "; there is ");
        let listed = words(
            images::near(file, image.index.iter().flatten()),
            "; the appliance index, from which source.image.appliance downloads, has ",
        );
        let message = format!(
            "{field}: image {volid:?} is not on its storage{there}{listed}: download it there, or correct the name"
        );
        self.stuck(stage, Reason::ImageNotFound, message)
    }
}

/// What to name instead of an appliance that is not there.
fn advice(wanted: &str, image: &Image) -> String {
    let index = image.index.clone().unwrap_or_default();
    if index.is_empty() {
        return "the index is empty: run `pveam update` on the node, or correct the name".into();
    }
    let package = images::package(wanted);
    let newer: Vec<&str> = index
        .iter()
        .map(String::as_str)
        .filter(|n| images::package(n) == package)
        .collect();
    if !newer.is_empty() {
        return format!(
            "it holds only the newest build of each, so name {}, or {package}_* for the newest there is",
            newer.join(" or ")
        );
    }
    match images::near(wanted, index.iter().chain(&image.files)).as_slice() {
        [] => "correct the name (`pveam available` on the node lists all, `pveam update` fetches the index)".into(),
        near => format!(
            "did you mean {}? (`pveam available` on the node lists all, `pveam update` fetches the index)",
            near.join(" or ")
        ),
    }
}

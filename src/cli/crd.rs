//! `phoenix crd`: prints the CustomResourceDefinitions, or writes them to a folder.

use std::path::PathBuf;
use std::process::ExitCode;

use kube::ResourceExt;

/// Arguments of `phoenix crd`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write one file for each kind into this folder instead of printing
    #[arg(long)]
    output_dir: Option<PathBuf>,
    /// Write what the checks of manifests need of the schemas into this file
    #[arg(long, hide = true)]
    schemas: Option<PathBuf>,
    /// Write the reference of each kind in Markdown into this folder
    #[arg(long, hide = true, value_name = "DIR")]
    reference: Option<PathBuf>,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        match self.write() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                errln!("phoenix crd: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        if let Some(file) = &self.schemas {
            std::fs::write(file, crate::crd::schemas()?)?;
        }
        for crd in crate::crd::all()? {
            if let Some(dir) = &self.reference {
                std::fs::create_dir_all(dir)?;
                let file = format!("{}.md", crd.spec.names.kind.to_lowercase());
                std::fs::write(dir.join(file), crate::crd::reference(&crd)?)?;
            }
            let yaml = crate::crd::to_yaml(&crd)?;
            match &self.output_dir {
                None => outln!("---\n{}", yaml.trim_end()),
                Some(dir) => {
                    std::fs::create_dir_all(dir)?;
                    std::fs::write(dir.join(format!("{}.yaml", crd.name_any())), yaml)?;
                }
            }
        }
        Ok(())
    }
}

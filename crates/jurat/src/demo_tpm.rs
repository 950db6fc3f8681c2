//! The TPM of `jurat demo --tpm`: this machine's, or a program that acts like one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jurat_agent::KeyPlace;
use jurat_key::tpm::{Address, Tpm};

use crate::demo::Stage;

/// How long a software TPM may take to listen.
const START: Duration = Duration::from_secs(10);

pub(crate) struct DemoTpm {
    place: KeyPlace,
    address: Address,
    /// The program that the demo started; it ends with it.
    program: Option<Child>,
}

impl Drop for DemoTpm {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

impl DemoTpm {
    pub(crate) fn find(stage: &Stage, work: &Path) -> Result<Self> {
        let (place, why_not) = KeyPlace::best();
        if let KeyPlace::Tpm(at) = &place {
            stage.say(&format!(
                "the device's keys will be in this machine's TPM, {at}"
            ));
            let address = at.parse()?;
            return Ok(Self {
                place,
                address,
                program: None,
            });
        }
        let why_not = why_not.unwrap_or_else(|| "this machine has no TPM".into());
        let state = work.join("swtpm");
        fs::create_dir_all(&state).context("creating a folder for swtpm")?;
        let socket = work.join("swtpm.socket");
        let started = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let program = match started {
            Ok(program) => program,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{why_not}, and swtpm is not installed (the package is called swtpm); `jurat demo` needs neither"
            ),
            Err(error) => return Err(error).context("starting swtpm"),
        };
        stage.say(&format!(
            "{why_not}; the device's keys will be in a software TPM (swtpm): a program, no chip"
        ));
        let place = KeyPlace::Tpm(format!("swtpm:{}", socket.display()));
        let address: Address = format!("swtpm:{}", socket.display()).parse()?;
        let tpm = Self {
            place,
            address,
            program: Some(program),
        };
        let begun = Instant::now();
        while tpm.address.open().is_err() {
            if begun.elapsed() > START {
                bail!("swtpm did not listen within {} s", START.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(tpm)
    }

    pub(crate) fn place(&self) -> KeyPlace {
        self.place.clone()
    }

    /// Whether the demo started it, and may do to it what it likes.
    pub(crate) fn is_ours(&self) -> bool {
        self.program.is_some()
    }

    fn open(&self) -> Result<Tpm> {
        let transport = self.address.open();
        let transport =
            transport.with_context(|| format!("opening the TPM at {}", self.address))?;
        Ok(Tpm::new(transport))
    }

    /// The file in which an operator approves its endorsement key.
    pub(crate) fn pins(&self, work: &Path) -> Result<PathBuf> {
        let name = self.open()?.endorsement()?.public.name();
        let path = work.join("ek-pins.txt");
        fs::write(&path, format!("{name}  # the TPM of the demo\n"))
            .context("writing ek-pins.txt")?;
        Ok(path)
    }

    /// Does what a changed boot loader would have done at the start, while the machine runs.
    pub(crate) fn measure_another_loader(&self) -> Result<()> {
        self.open()?.extend_pcr(4, &[0x66; 32])?;
        Ok(())
    }
}

//! Attacks of a hostile guest on views, as jobs: while the attacker works, another VM waits for frames;
//! afterwards a third one exchanges frames with it through the same NIC.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use postern_abi::guest_words::REPELLED;
use postern_lab::job::Job;
use postern_lab::setup::Programs;

/// Time for one attack with all that surrounds it.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A NIC of three ports that runs `image`, a VM that sends back what it gets on the first, and a script
/// in which `$vm` runs a VM.
pub fn with_echo(programs: &Programs, image: &Path, name: &str, path: &str, script: &str) -> Job {
    let script = format!(
        "
./postern nic --socket nic.sock --ports 3 --image nic-image > nic.log 2>&1 & nic=$!
while [ ! -S nic.sock ]; do kill -0 $nic || {{ cat nic.log; exit 90; }}; sleep 0.01; done
vm='./postern run --kernel guest --memory 16M --nic nic.sock --path {path} --serial -'
$vm --port 0 --cmdline 'role=echo timer=100 patience=100000' & echo=$!
{script}
kill -0 $echo || {{ echo 'the waiting VM is gone'; exit 91; }}
kill $echo $nic; wait $echo; wait $nic
echo done
"
    );
    Job::new(name, &script)
        .file("postern", &programs.postern)
        .file("guest", &programs.bare_guest)
        .file("nic-image", image)
        .timeout(TIMEOUT)
}

/// The attack of this name ([`postern_abi::guest_words::attack`]) on a path.
pub fn job(programs: &Programs, image: &Path, attack: &str, path: &str) -> Job {
    let script = format!(
        "
$vm --port 2 --cmdline 'role=attack attack={attack} timer=1000'; echo \"attacker ended with $?\"
./postern nic show nic.sock counters
$vm --port 1 --cmdline 'role=ping frames=64 timer=100'; echo \"ping ended with $?\"
"
    );
    with_echo(programs, image, &format!("attack {attack}"), path, &script)
}

/// An attack that exchanges frames itself: those of another VM go before, as the waiting one announces
/// itself until its first frame comes.
pub fn beside_echo(programs: &Programs, image: &Path, attack: &str, path: &str) -> Job {
    let script = format!(
        "
$vm --port 1 --cmdline 'role=ping frames=64 timer=100'; echo \"ping ended with $?\"
$vm --port 2 --cmdline 'role=attack attack={attack} timer=1000'; echo \"attacker ended with $?\"
"
    );
    with_echo(programs, image, &format!("attack {attack}"), path, &script)
}

/// Checks what a job of these printed: the attacker saw its attack repelled, and the others went on.
///
/// # Errors
///
/// The text, of an attack that was not repelled or harmed others.
pub fn check_repelled(text: &str) -> Result<()> {
    ensure!(
        text.contains(&format!(": {REPELLED}: "))
            && text.contains("attacker ended with 0")
            && text.contains("ping ended with 0"),
        "{text}"
    );
    Ok(())
}

//! A Kubernetes cluster by hand, as the tests have it.
//!
//! ```console
//! $ cargo run -p tidegate-tests --bin cluster -- build                # the programs, once: six to fifteen minutes on two cores
//! $ eval $(cargo run -p tidegate-tests --bin cluster -- up)           # two nodes (root), or --control-plane; sets KUBECONFIG and PATH
//! $ cargo run -p tidegate-tests --bin cluster -- status               # what runs, and where it logs
//! $ cargo run -p tidegate-tests --bin cluster -- exec n1 curl …       # in the network of a node, or `outside`
//! $ cargo run -p tidegate-tests --bin cluster -- down                 # and nothing is left
//! ```

use std::{env, fs, io, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tidegate_tests::cluster::{
    Failure, Tier,
    directory::{self, Directory},
    machine,
    nodes::command_in,
    owner::{self, Owner},
    programs::Programs,
    supervisor,
};

/// A Kubernetes cluster on this machine: a real control plane, and two nodes in network namespaces.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the programs that are missing.
    Build,
    /// Starts a cluster, prints how to use it, and leaves it running.
    Up(Which),
    /// Ends a cluster, and removes whatever is left of it.
    Down(Name),
    /// Says which clusters there are, and what runs in them.
    Status,
    /// Starts (or stops) one of a cluster's programs, such as kube-apiserver.
    Start(Program),
    /// Kills one of a cluster's programs.
    Stop(Program),
    /// Runs a command in the network of a node.
    Exec {
        #[command(flatten)]
        name: Name,
        /// `n1`, `n2`, or `outside` of them.
        node: String,
        /// A program of this machine, and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Runs a cluster until its owner ends.
    #[command(hide = true)]
    Supervise {
        #[command(flatten)]
        which: Which,
        /// It goes on when its owner has ended.
        #[arg(long)]
        stays: bool,
    },
}

#[derive(Args)]
struct Name {
    /// Its name: there can be more than one.
    #[arg(long, default_value = "dev")]
    name: String,
}

#[derive(Args)]
struct Which {
    #[command(flatten)]
    name: Name,
    /// Without nodes: it takes seconds, and no root.
    #[arg(long)]
    control_plane: bool,
}

#[derive(Args)]
struct Program {
    #[command(flatten)]
    name: Name,
    /// As `status` calls it.
    program: String,
}

impl Which {
    fn tier(&self) -> Tier {
        if self.control_plane { Tier::ControlPlane } else { Tier::TwoNodes }
    }
}

/// The supervisor's children die with the thread that started them: there is but this one.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("cluster: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Build => Programs::build(Tier::TwoNodes, &mut say).map(drop),
        Command::Up(which) => up(&which),
        Command::Down(name) => {
            for removed in directory::remove_leftovers()? {
                say(&format!("removed what was left of {removed}"));
            }
            owner::down(&Directory::named(&name.name)?)
        }
        Command::Status => status(),
        Command::Start(program) => order("start", &program),
        Command::Stop(program) => order("stop", &program),
        Command::Exec { name, node, command } => {
            let mut exec = command_in(&Directory::named(&name.name)?, &node)?;
            Err(std::os::unix::process::CommandExt::exec(exec.args(command)).into())
        }
        Command::Supervise { which, stays } => {
            supervisor::run(Directory::named(&which.name.name)?, which.tier(), stays).await
        }
    }
}

/// Progress is no output: that is for the shell.
fn say(line: &str) {
    eprintln!("cluster: {line}");
}

fn up(which: &Which) -> Result<(), Failure> {
    machine::check(which.tier())?;
    let programs = Programs::build(which.tier(), &mut say)?;
    let directory = Directory::named(&which.name.name)?;
    let owner = Owner::start(&env::current_exe()?, directory, which.tier(), true, &mut say)?;
    let directory = owner.leave();
    let kubectl = programs.path("kubectl");
    // One line: a shell's `eval $(…)` makes one of it anyhow.
    let folder = kubectl.parent().unwrap_or(&kubectl).display().to_string();
    println!("export KUBECONFIG='{}' PATH=\"$PATH:{folder}\"", directory.file("admin.kubeconfig").display());
    Ok(())
}

fn status() -> Result<(), Failure> {
    let every = Directory::every();
    if every.is_empty() {
        println!("There is no cluster.");
    }
    for directory in every {
        let status = match owner::ask(&directory, "status") {
            Ok(status) => status,
            Err(_) if directory.is_alive() => "starts, or ends\n".to_owned(),
            Err(_) => "its supervisor was killed; `cluster down` removes what is left of it\n".to_owned(),
        };
        println!("{}: {status}", directory.name());
        println!("export KUBECONFIG={}\n", fs::canonicalize(directory.path())?.join("admin.kubeconfig").display());
    }
    Ok(())
}

fn order(verb: &str, program: &Program) -> Result<(), Failure> {
    owner::ask(&Directory::named(&program.name.name)?, &format!("{verb} {}", program.program)).map(drop)
}

# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_payd_global_optspecs
    string join \n h/help V/version
end

function __fish_payd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_payd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_payd_using_subcommand
    set -l cmd (__fish_payd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c payd -n "__fish_payd_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c payd -n "__fish_payd_needs_command" -s V -l version -d 'Print version'
complete -c payd -n "__fish_payd_needs_command" -f -a "serve" -d 'Run the daemon until it is told to stop'
complete -c payd -n "__fish_payd_needs_command" -f -a "config" -d 'Check or show the settings'
complete -c payd -n "__fish_payd_needs_command" -f -a "backup" -d 'Copy the database into a file, verified'
complete -c payd -n "__fish_payd_needs_command" -f -a "restore" -d 'Make a backup the database, where there is none'
complete -c payd -n "__fish_payd_needs_command" -f -a "verify" -d 'Check that the database is what payd wrote'
complete -c payd -n "__fish_payd_needs_command" -f -a "openapi" -d 'Print the OpenAPI description of the HTTP API'
complete -c payd -n "__fish_payd_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c payd -n "__fish_payd_using_subcommand serve" -l config -d 'The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]' -r -F
complete -c payd -n "__fish_payd_using_subcommand serve" -l data-dir -d 'Where the database lies [default: ~/.local/share/payd]' -r -F
complete -c payd -n "__fish_payd_using_subcommand serve" -l socket -d 'The Unix socket [default: $XDG_RUNTIME_DIR/payd/payd.sock]' -r -F
complete -c payd -n "__fish_payd_using_subcommand serve" -l listen -d 'The TCP address; port 0 takes a free one; not on loopback it needs TLS [default: 127.0.0.1:8080]' -r
complete -c payd -n "__fish_payd_using_subcommand serve" -l dev -d 'No token needed over TCP, on loopback only: for development'
complete -c payd -n "__fish_payd_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c payd -n "__fish_payd_using_subcommand config; and not __fish_seen_subcommand_from check show help" -s h -l help -d 'Print help'
complete -c payd -n "__fish_payd_using_subcommand config; and not __fish_seen_subcommand_from check show help" -f -a "check" -d 'Read the settings and say what is wrong with them'
complete -c payd -n "__fish_payd_using_subcommand config; and not __fish_seen_subcommand_from check show help" -f -a "show" -d 'Print the settings that hold, and where each came from'
complete -c payd -n "__fish_payd_using_subcommand config; and not __fish_seen_subcommand_from check show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from check" -l config -d 'The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]' -r -F
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from check" -l data-dir -d 'Where the database lies [default: ~/.local/share/payd]' -r -F
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from check" -l socket -d 'The Unix socket [default: $XDG_RUNTIME_DIR/payd/payd.sock]' -r -F
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from check" -l listen -d 'The TCP address; port 0 takes a free one; not on loopback it needs TLS [default: 127.0.0.1:8080]' -r
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from check" -l dev -d 'No token needed over TCP, on loopback only: for development'
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from show" -l config -d 'The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]' -r -F
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from show" -l data-dir -d 'Where the database lies [default: ~/.local/share/payd]' -r -F
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from show" -l socket -d 'The Unix socket [default: $XDG_RUNTIME_DIR/payd/payd.sock]' -r -F
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from show" -l listen -d 'The TCP address; port 0 takes a free one; not on loopback it needs TLS [default: 127.0.0.1:8080]' -r
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from show" -l dev -d 'No token needed over TCP, on loopback only: for development'
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "check" -d 'Read the settings and say what is wrong with them'
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print the settings that hold, and where each came from'
complete -c payd -n "__fish_payd_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c payd -n "__fish_payd_using_subcommand backup" -l config -d 'The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]' -r -F
complete -c payd -n "__fish_payd_using_subcommand backup" -l data-dir -d 'Where the database lies [default: ~/.local/share/payd]' -r -F
complete -c payd -n "__fish_payd_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c payd -n "__fish_payd_using_subcommand restore" -l config -d 'The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]' -r -F
complete -c payd -n "__fish_payd_using_subcommand restore" -l data-dir -d 'Where the database lies [default: ~/.local/share/payd]' -r -F
complete -c payd -n "__fish_payd_using_subcommand restore" -l pause -d 'Send nothing before an operator says so: POST /admin/resume'
complete -c payd -n "__fish_payd_using_subcommand restore" -l keep-tokens -d 'Leave tokens as good as they were, where none was revoked since the backup'
complete -c payd -n "__fish_payd_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c payd -n "__fish_payd_using_subcommand verify" -l config -d 'The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]' -r -F
complete -c payd -n "__fish_payd_using_subcommand verify" -l data-dir -d 'Where the database lies [default: ~/.local/share/payd]' -r -F
complete -c payd -n "__fish_payd_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c payd -n "__fish_payd_using_subcommand openapi" -s h -l help -d 'Print help'
complete -c payd -n "__fish_payd_using_subcommand help; and not __fish_seen_subcommand_from serve config backup restore verify openapi help" -f -a "serve" -d 'Run the daemon until it is told to stop'
complete -c payd -n "__fish_payd_using_subcommand help; and not __fish_seen_subcommand_from serve config backup restore verify openapi help" -f -a "config" -d 'Check or show the settings'
complete -c payd -n "__fish_payd_using_subcommand help; and not __fish_seen_subcommand_from serve config backup restore verify openapi help" -f -a "backup" -d 'Copy the database into a file, verified'
complete -c payd -n "__fish_payd_using_subcommand help; and not __fish_seen_subcommand_from serve config backup restore verify openapi help" -f -a "restore" -d 'Make a backup the database, where there is none'
complete -c payd -n "__fish_payd_using_subcommand help; and not __fish_seen_subcommand_from serve config backup restore verify openapi help" -f -a "verify" -d 'Check that the database is what payd wrote'
complete -c payd -n "__fish_payd_using_subcommand help; and not __fish_seen_subcommand_from serve config backup restore verify openapi help" -f -a "openapi" -d 'Print the OpenAPI description of the HTTP API'
complete -c payd -n "__fish_payd_using_subcommand help; and not __fish_seen_subcommand_from serve config backup restore verify openapi help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c payd -n "__fish_payd_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "check" -d 'Read the settings and say what is wrong with them'
complete -c payd -n "__fish_payd_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'Print the settings that hold, and where each came from'

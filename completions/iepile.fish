# Completion of iepile for fish.
function __iepile_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    set -l offered (env _IEPILE_COMPLETE=fish $program $words "$current" 2>/dev/null)
    if set -q offered[1]
        printf '%s\n' $offered
    else
        __fish_complete_path "$current"
    end
end
complete --command iepile --no-files --keep-order --arguments '(__iepile_complete)'

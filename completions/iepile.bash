# Completion of iepile for bash; needs nothing else.
_iepile() {
    local IFS=$'\n'
    COMPREPLY=($(_IEPILE_COMPLETE=bash "${COMP_WORDS[0]/#\~/$HOME}" \
        "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _iepile iepile

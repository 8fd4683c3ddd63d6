# Completion of iepile for PowerShell; load it from $PROFILE.
Register-ArgumentCompleter -Native -CommandName iepile -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements |
        Where-Object { $_.Extent.EndOffset -lt $cursorPosition } |
        ForEach-Object { $_.Extent.Text })
    $program = $commandAst.CommandElements[0].Extent.Text
    $given = @($words | Select-Object -Skip 1) + $wordToComplete
    $Env:_IEPILE_COMPLETE = 'powershell'
    $Env:_IEPILE_COMPLETE_WORDS = $given -join "`n"
    try {
        & $program 2>$null | ForEach-Object {
            $value, $help = $_ -split "`t", 2
            if (-not $help) { $help = $value }
            [System.Management.Automation.CompletionResult]::new(
                $value, $value, 'ParameterValue', $help)
        }
    } finally {
        Remove-Item Env:_IEPILE_COMPLETE, Env:_IEPILE_COMPLETE_WORDS
    }
}

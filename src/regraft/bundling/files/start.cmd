@echo off
rem Installs the packages beside this file, without a network, checks the model, and serves it on this machine.
rem What is typed after the script's name goes to regraft serve, such as: start.cmd --port 9000
setlocal
cd /d "%~dp0"
set "COMMANDS="
if not exist wheels goto ready
set "COMMANDS=venv\Scripts\"
if exist venv\complete goto ready
if exist venv rmdir /s /q venv
py -$python -m venv venv
if errorlevel 1 exit /b 1
venv\Scripts\python -m pip install --quiet --disable-pip-version-check --no-index --find-links wheels "regraft[serve]"
if errorlevel 1 exit /b 1
type nul > venv\complete
:ready
"%COMMANDS%regraft" verify .
if errorlevel 1 exit /b 1
"%COMMANDS%regraft" serve model.onnx %*

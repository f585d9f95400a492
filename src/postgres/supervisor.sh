# Runs PostgreSQL and stops it when the server that started it is gone, however that went.
#
#   sh -c "$(cat supervisor.sh)" NAME PATIENCE_S POSTGRES ARGUMENTS...
#
# Standard input is a pipe whose other end only the server holds. A line is an order (`fast`, `immediate`); its end
# means that the server has died. Nothing else tells that as surely: the kernel closes the pipe even after kill -9.
# This shell is PostgreSQL's parent and reaps it, so the process id that is signalled cannot be another's by then.

patience_s=$1
shift

# A signal for everybody (the end of a session, a service manager's stop) must not take the watchman away first.
# PostgreSQL sets its own handlers.
trap '' HUP INT TERM

exec 3<&0
"$@" 3<&- </dev/null &
postgres=$!

{
    exec >/dev/null 2>&1
    while IFS= read -r order <&3; do
        case $order in
            fast) kill -INT "$postgres" ;;
            immediate) kill -QUIT "$postgres" ;;
        esac
    done
    kill -INT "$postgres" || exit
    waited_s=0
    while kill -0 "$postgres" && [ "$waited_s" -lt "$patience_s" ]; do
        sleep 1
        waited_s=$((waited_s + 1))
    done
    kill -QUIT "$postgres"
} &
watchman=$!
exec 3<&-

wait "$postgres"
status=$?
kill -KILL "$watchman" 2>/dev/null
exit "$status"

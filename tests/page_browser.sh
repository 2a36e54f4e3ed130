#!/bin/sh
# Usage: page_browser.sh KVQ_EVAL PAGE_SAMPLE
# Opens a page in headless Chromium, at the widths of a phone, a tablet and a screen, light and dark: nothing wider than
# the window, no message on the console, no request to anywhere, axes and their texts drawn, dark colours in the dark.
# Skipped (77) without a browser.
set -eu
tool=$1 sample=$2
browser=
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then browser=$name; break; fi
done
[ -n "$browser" ] || { echo "no Chromium: skipped"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$1" >&2; exit 1; }

"$sample" 2 >"$work/results.jsonl"
"$tool" report "$work/results.jsonl" --html "$work/page.html" --svg "$work/svg" --csv "$work/csv"

# What the copy under test gets, and the page itself does not have: a script that says what it finds. The page's own
# policy forbids scripts, so the copy lacks it.
check='<script>addEventListener("load",function(){var d=document.documentElement,o=[];
document.querySelectorAll("body *").forEach(function(e){if(e.closest(".box")||e.closest("svg"))return;
var r=e.getBoundingClientRect();if(r.right>d.clientWidth+1&&o.length<3)o.push(e.tagName+"."+e.className)});
var small=0,over=0;document.querySelectorAll("svg").forEach(function(s){var b=s.getBoundingClientRect();
s.querySelectorAll("text").forEach(function(t){var r=t.getBoundingClientRect();if(r.height<6)small++;
if(r.left<b.left-1||r.right>b.right+1||r.top<b.top-1||r.bottom>b.bottom+1)over++})});
d.setAttribute("data-found",["width",d.clientWidth,"overflow",d.scrollWidth-d.clientWidth,o.join(" ")||"none","small",small,
"cut",over,"ink",getComputedStyle(document.body).color,"end"].join(" "))})</script>'

run() { # OUT ARGUMENTS...: the dumped document; messages into OUT.log
    out=$1
    shift
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run \
        --user-data-dir="$work/profile" --disable-background-networking --disable-component-update \
        --proxy-server=127.0.0.1:9 --proxy-bypass-list='<-loopback>' \
        --enable-logging=stderr --log-net-log="$out.net" "$@" >"$out" 2>"$out.log"
}

for width in 320 360 800 1400; do
    for theme in light dark; do
        # A window of Chromium is at least 500 wide: a frame of the width stands for it.
        { sed -e '/Content-Security-Policy/d' "$work/page.html"; printf '%s' "$check"; } >"$work/copy.html"
        cat >"$work/frame.html" <<END
<!DOCTYPE html><body style="margin:0"><iframe id="f" src="copy.html" style="border:0;width:${width}px;height:900px"></iframe>
<script>addEventListener("load",function(){document.body.setAttribute("data-found",
document.getElementById("f").contentDocument.documentElement.getAttribute("data-found"))})</script>
END
        scheme=1
        [ "$theme" = light ] || scheme=0
        run "$work/dom" --allow-file-access-from-files --blink-settings=preferredColorScheme=$scheme \
            --window-size=1500,1000 --dump-dom "file://$work/frame.html"
        found=$(sed -n 's/.*data-found="\([^"]*\)".*/\1/p' "$work/dom")
        echo "$width $theme: $found"
        case $found in
            "width $width overflow 0 none small 0 cut 0 ink "*) ;;
            *) fail "at $width, $theme: expected width $width, no overflow, no small or cut text" ;;
        esac
        case $theme,$found in
            light,*"ink rgb(27, 31, 36)"*) ;;
            dark,*"ink rgb(228, 232, 236)"*) ;;
            *) fail "$theme: the colours of the other theme" ;;
        esac
        if grep -E 'CONSOLE' "$work/dom.log"; then fail "messages on the console"; fi
    done
done

# The page as it is: its policy and its texts; nothing is asked of the network.
run "$work/dom" --dump-dom "file://$work/page.html"
if grep -E 'CONSOLE' "$work/dom.log"; then fail "messages on the console"; fi
for text in 'KL from fp32 (nats per token)' 'bits per number, all bytes counted' 'bytes per token, all layers' \
    'position in the window, tokens' 'tokens held' 'query head' 'How it was measured'; do
    grep -qF "$text" "$work/dom" || fail "the page lacks: $text"
done
if grep -oE '"url":"(https?|ftp|wss?):[^"]*"' "$work/dom.net" | grep -vE 'google(apis)?\.com|gstatic\.com|gvt1\.com' | grep .; then
    fail "the page asks for something outside"
fi
grep -qE '\b(https?:)?//[a-z]' "$work/page.html" && fail "the page names an address"

# Each SVG file as a document of its own, in frames, because a browser takes long to start.
n=0
{
    echo '<!DOCTYPE html><body>'
    for file in "$work"/svg/*.svg; do
        echo "<iframe src=\"svg/${file##*/}\"></iframe>"
    done
    cat <<'END'
<script>addEventListener("load",function(){var bad=[],frames=document.querySelectorAll("iframe");
frames.forEach(function(f){var d=f.contentDocument,r=d&&d.documentElement;
if(!r||r.nodeName!="svg"||d.querySelector("parsererror")||!(r.getBoundingClientRect().height>6))bad.push(f.getAttribute("src"))});
document.body.setAttribute("data-found",frames.length+" frames, bad: "+(bad.join(" ")||"none")+".")})</script>
END
} >"$work/frames.html"
for file in "$work"/svg/*.svg; do
    [ -s "$file" ] || fail "$file is empty"
    n=$((n + 1))
done
run "$work/dom" --allow-file-access-from-files --dump-dom "file://$work/frames.html"
found=$(sed -n 's/.*data-found="\([^"]*\)".*/\1/p' "$work/dom")
[ "$n" -gt 5 ] && [ "$found" = "$n frames, bad: none." ] || fail "$n SVG files, of which a browser says: $found"
if grep -E 'CONSOLE' "$work/dom.log"; then fail "messages on the console"; fi
echo "good"
